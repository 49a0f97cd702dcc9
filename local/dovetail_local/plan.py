"""What the supervisor has to run: servers as data, and the files of a stack's folder.

The supervisor reads this and knows nothing of PostgreSQL or Kafka.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """One process to run. `signals` names the ways to stop it; "stop" is the gentle one, "drop" the quick one."""

    name: str
    port: int
    argv: list[str]
    environment: dict[str, str]
    log: str
    folder: str
    signals: dict[str, int]
    death_signal: int
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All servers of a stack, and what belongs to it outside of its folder. A temporary one goes when it stops."""

    servers: list[Server]
    temporary: bool = False
    elsewhere: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of the files in a stack's folder."""

    directory: Path

    @property
    def record(self) -> Path:
        """What was chosen once and stays: versions, ports, passwords."""
        return self.directory / "stack.json"

    @property
    def plan(self) -> Path:
        """What the supervisor reads."""
        return self.directory / "plan.json"

    @property
    def processes(self) -> Path:
        """Who runs: written by the supervisor, read after a crash."""
        return self.directory / "processes.json"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.directory / "control.sock"

    @property
    def up_lock(self) -> Path:
        """Held by whoever brings the stack up or down."""
        return self.directory / "up.lock"

    @property
    def alive_lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.directory / "supervisor.lock"

    @property
    def logs(self) -> Path:
        """One file per server."""
        return self.directory / "logs"


def write_private(path: Path, value: Any) -> None:
    """Replace a file by JSON that only this user can read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=1)
    draft.replace(path)


def read_plan(path: Path) -> Plan:
    """Read what `write_plan` wrote."""
    raw = json.loads(path.read_text())
    return Plan([Server(**server) for server in raw["servers"]], raw["temporary"], raw["elsewhere"])


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan for the supervisor."""
    write_private(path, asdict(plan))
