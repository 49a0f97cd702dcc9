"""What a command is to the desk: a number of steps, each of which is one batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from dovetail_relay.nouns import LSN_ZERO, Checkpoint, Place, Record, parse_lsn


@dataclass(frozen=True, slots=True)
class Work:
    """One step: what goes out, and what will have been done once it has. `facts` are counts, and where to go on."""

    records: list[Record]
    facts: dict[str, int]


class Task(Protocol):
    """Not thread-safe; talks to the database over the leader's lock session."""

    def problem(self) -> str | None:
        """Why it cannot be done at all; None where it can."""
        ...

    def ready(self, base: Checkpoint) -> bool:
        """Whether its first step may go, where everything up to `base` is out."""
        ...

    def step(self, number: int, most: int, most_bytes: int) -> Work | None:
        """The next step, of at most so many records and so many bytes of payload, but at least one record.

        None at the end. A refused one is asked for again.
        """

    def committed(self, number: int) -> None:
        """Step `number` is in Kafka for good."""
        ...

    def refused(self, places: list[Place], topics: dict[str, str]) -> None:
        """The step came to nothing because of these rows or topics."""
        ...

    def waits(self) -> bool:
        """At the end: whether something is still to come by itself before the command is done."""
        ...

    def outcome(self) -> tuple[str, dict[str, Any]]:
        """What was done, in one line; and what was not, for the command's row: `still_stuck` and the `first_stuck`."""
        ...


@dataclass(slots=True)
class Counts:
    """What a command has done so far. `durable` is in Kafka; a step counts once it is committed."""

    durable: Counter[str] = field(default_factory=Counter)

    def with_step(self, **more: int) -> dict[str, int]:
        """The counts after a step that does so much."""
        return dict(self.durable + Counter(more))

    def take(self, facts: dict[str, Any]) -> None:
        """What a committed step, or the database after a restart, says."""
        self.durable = Counter({name: value for name, value in facts.items() if isinstance(value, int)})


def row_of(found: dict[str, Any]) -> list[Any]:
    """A stored row in the order of `decode.pgoutput.FIELDS`, as raw bytes."""
    names = ("id", "aggregatetype", "aggregateid", "type", "payload", "schema_fingerprint", "encoding", "headers")
    raw = [found[name] for name in (*names, "created_us")]
    return [None if value is None else bytes(value) for value in raw]


def place_in(found: dict[str, Any]) -> Place:
    """Where a parked row stands."""
    return Place(parse_lsn(found["commit_lsn"]), found["index"])


def stored_place(seq: int) -> Place:
    """Where a row of the table stands."""
    return Place(LSN_ZERO, seq)
