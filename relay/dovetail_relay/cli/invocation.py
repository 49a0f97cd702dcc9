"""What every command shares: the global options, and the settings made of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dovetail_relay.cli.words import Output
from dovetail_relay.config import Settings, load


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options in front of, or behind, the command's name."""

    config: Path | None = None
    output: Output = "table"
    debug: bool = False

    def settings(
        self,
        overrides: Mapping[str, object] | None = None,
        needs: Collection[str] = ("postgres.dsn", "kafka.bootstrap_servers"),
    ) -> Settings:
        """File, environment, then the command's own flags (those that were given)."""
        given = {path: str(value) for path, value in (overrides or {}).items() if value is not None}
        return load(self.config, os.environ, given, needs=needs)


def invocation(context: Any) -> Invocation:
    """The global options of the running command."""
    return cast("Invocation", context.find_root().obj or Invocation())
