"""What was seen of a relay, each part from one source, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from dovetail_relay.nouns import Checkpoint, Lsn
from dovetail_relay.source.commands import FOR_HALTED

# Who said how many events are behind: the relay that leads, the outbox table (an upper bound), the positions alone.
LagSource = Literal["relay", "outbox", "positions", "unknown"]


# What an operator types for each kind of command.
TYPED: Final[Mapping[str, str]] = {
    "release": "dovetail stuck release",
    "discard": "dovetail stuck discard",
    "replay": "dovetail replay",
    "recover": "dovetail recover",
    "accept": "dovetail relay accept",
}


def next_of(kind: str, state: str) -> str:
    """What to type to see a command's end, and to end it where it can be: a recovery that has begun goes to its end."""
    ends = "" if kind in FOR_HALTED and state != "pending" else ", or --withdraw to end it"
    return f"{TYPED[kind]} --follow{ends}"


@dataclass(frozen=True, slots=True)
class Leader:
    """The session that holds the lead. What PostgreSQL hides from our role is None."""

    pid: int
    application_name: str | None
    address: str | None
    idle_seconds: float | None


@dataclass(frozen=True, slots=True)
class Slot:
    """The replication slot. `safe_wal_bytes` is None where the server sets no limit."""

    active: bool
    wal_status: str | None
    retained_bytes: int | None
    safe_wal_bytes: int | None
    confirmed_flush: Lsn


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows above the checkpoint's horizon: at least all that are unpublished. `capped`: there are more."""

    events: int
    oldest_seconds: float
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Stuck:
    """Messages that wait, and of how many keys; `standing_before`: those among them that halt the relay.

    `halting` is the event before which the relay stands, and `reason` why it cannot go out.
    """

    messages: int
    keys: int
    standing_before: int
    halting: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Underway:
    """An operator's command that is not settled: until it is, no other of its class begins."""

    id: int
    kind: str
    actor: str
    state: str
    created_at: datetime

    @property
    def next(self) -> str:
        """What an operator types to see its end."""
        return next_of(self.kind, self.state)


@dataclass(frozen=True, slots=True)
class DatabaseSide:
    """What PostgreSQL says."""

    database: str
    in_recovery: bool
    wal_lsn: Lsn
    leader: Leader | None
    slot: Slot | None
    # None: init has not made this relay here
    epoch: int | None
    started: bool = False
    # None on a standby
    timeline: int | None = None
    # Slots of standbys that the stream waits for, and that nobody uses
    awaited: tuple[str, ...] = ()
    # None where no checkpoint tells the horizon, or the table has another shape
    rows: Rows | None = None
    # None where the login may not see them
    stuck: Stuck | None = None
    commands: tuple[Underway, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KafkaSide:
    """What Kafka says. `checkpoint` None: the topic is empty, or missing as `problem` says."""

    checkpoint: Checkpoint | None
    age_seconds: float | None = None
    problem: str | None = None
    # The topic itself: init makes it again.
    missing: bool = False


@dataclass(frozen=True, slots=True)
class ProcessSide:
    """What one relay process says over HTTP; it need not be the one that leads."""

    address: str
    ready: bool
    role: str | None = None
    reason: str | None = None
    next: str | None = None
    leads: bool = False
    lag_events: float | None = None
    lag_seconds: float | None = None
    # None while the process cannot tell
    books_balanced: bool | None = None

    @property
    def halted(self) -> bool:
        """Whether `reason` is a named halt; what merely waits is written in small letters."""
        return self.reason is not None and self.reason.isupper()


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind. None is unknown; `at_most` when published rows may be among those counted.

    The relay counts what it has read; `bound` is how many there are at most, unread ones included, where known.
    """

    events: int | None
    seconds: float | None
    bytes: int | None
    source: LagSource
    at_most: bool = False
    bound: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and the next command to type."""

    name: str
    message: str
    next: str

    def line(self) -> str:
        """What a person reads."""
        return f"{self.name}: {self.message}; next: {self.next}"


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one look brought. A side is None when its server did not answer."""

    relay: str
    slot: str
    database: DatabaseSide | None
    kafka: KafkaSide | None
    process: ProcessSide | None
    process_address: str | None = None
    lease_seconds: float = 10.0
    errors: dict[str, str] = field(default_factory=dict)
