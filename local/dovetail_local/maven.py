"""Software by Maven coordinates, through jgo's resolver in pure Python.

The resolver writes its files in place, so an interrupted download leaves half a file that the next run would take for
a whole one. Callers therefore hand in a scratch folder that is thrown away, and keep what they need only at the end.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dovetail_local.errors import LocalError

Say = Callable[[str], None]
_TIMEOUT_SECONDS = 60


def java_environment(scratch: Path, coordinate: str) -> list[Path]:
    """Resolve a coordinate with everything it needs into `scratch`, and give its jars."""
    with _told_in_one_line(coordinate):
        from jgo.env import EnvironmentBuilder, LinkStrategy  # noqa: PLC0415 - slow to import, needed once

        builder = EnvironmentBuilder(
            context=_context(scratch), cache_dir=scratch / "environments", link_strategy=LinkStrategy.AUTO
        )
        root = Path(builder.from_endpoint(coordinate).path)
    return sorted(root.rglob("*.jar"))


def single_file(scratch: Path, coordinate: str) -> Path:
    """Fetch the one jar of `group:artifact:version` into `scratch`, without what it depends on."""
    group, artifact, version = coordinate.split(":")
    with _told_in_one_line(coordinate):
        return Path(_context(scratch).project(group, artifact).at_version(version).artifact().resolve())


def _context(scratch: Path) -> Any:
    from jgo.maven import MavenContext  # noqa: PLC0415 - slow to import, needed once

    return MavenContext(repo_cache=scratch / "maven", timeout=_TIMEOUT_SECONDS)


@contextlib.contextmanager
def _told_in_one_line(coordinate: str) -> Iterator[None]:
    logging.getLogger("jgo").setLevel(logging.CRITICAL)
    try:
        yield
    except ImportError as error:
        raise LocalError(f"{error.name} is not installed: pip install 'dovetail[local]'") from error
    except Exception as error:  # the resolver has no error tree of its own
        reason = "it does not exist" if "not found" in str(error) else type(error).__name__
        raise LocalError(
            f"cannot get {coordinate} ({reason}): check the version and the network, then run the same command again"
        ) from error
