"""Software by Maven coordinates, through jgo's resolver in pure Python."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dovetail_local.errors import LocalError

Say = Callable[[str], None]
_TIMEOUT_SECONDS = 60


def java_environment(cache: Path, coordinate: str) -> list[Path]:
    """Resolve a coordinate with everything it needs, and give its jars in a stable order."""
    with _told_in_one_line(coordinate):
        from jgo.env import EnvironmentBuilder, LinkStrategy  # noqa: PLC0415 - slow to import, needed once

        builder = EnvironmentBuilder(
            context=_context(cache), cache_dir=cache / "environments", link_strategy=LinkStrategy.AUTO
        )
        root = Path(builder.from_endpoint(coordinate).path)
    return sorted(root.rglob("*.jar"))


def single_file(cache: Path, coordinate: str) -> Path:
    """Fetch the one jar of `group:artifact:version`, without what it depends on."""
    group, artifact, version = coordinate.split(":")
    with _told_in_one_line(coordinate):
        return Path(_context(cache).project(group, artifact).at_version(version).artifact().resolve())


def _context(cache: Path) -> Any:
    from jgo.maven import MavenContext  # noqa: PLC0415 - slow to import, needed once

    return MavenContext(repo_cache=cache / "maven", timeout=_TIMEOUT_SECONDS)


@contextlib.contextmanager
def _told_in_one_line(coordinate: str) -> Iterator[None]:
    logging.getLogger("jgo").setLevel(logging.CRITICAL)
    try:
        yield
    except ImportError as error:
        raise LocalError(f"{error.name} is not installed: pip install 'dovetail[local]'") from error
    except Exception as error:  # the resolver has no error tree of its own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise LocalError(
            f"cannot get {coordinate} ({reason}): check the version and the network, then run the same command again"
        ) from error


def replace_folder(draft: Path, final: Path) -> None:
    """Put a finished folder in place; a half-made one of an earlier run goes."""
    shutil.rmtree(final, ignore_errors=True)
    os.replace(draft, final)
