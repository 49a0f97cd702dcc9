"""The nouns that the rooms hand to each other. This module imports nothing of ours.

`Lsn` is a position in the write-ahead log: 64 bits, printed as PostgreSQL prints it (`16/B374D848`). It is a type of
its own so that a row count or an epoch can never be taken for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, NewType

Lsn = NewType("Lsn", int)

LSN_ZERO = Lsn(0)


def lsn_text(lsn: Lsn) -> str:
    """`16/B374D848`, as PostgreSQL prints it and accepts it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> Lsn:
    """The inverse of `lsn_text`; raises ValueError on anything else."""
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8 or not (high + low).isalnum():
        raise ValueError(f"{text!r} is not an LSN such as 16/B374D848")
    return Lsn(int(high, 16) << 32 | int(low, 16))


class Delivery(StrEnum):
    """The two delivery modes; `exactly_once` is the default."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class Record(NamedTuple):
    """What goes to Kafka, in the argument order of `Producer.produce`.

    A named tuple and not a dataclass: one is made per row on the hot path, and a tuple is the cheapest thing that has
    names.
    """

    topic: str
    value: bytes | None
    key: bytes
    headers: list[tuple[str, str | bytes | None]]


class UnkeptRecord(Record):
    """The record of an event that no row of the outbox stands for: the books, which are compared with it, pass over."""

    __slots__ = ()


# One row of the outbox as it streams: id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding,
# headers, created_at. The publication's columns in their order, in PostgreSQL's binary format, numbers already read.
# A sequence and no class of its own: one is made per row on the hot path.
OutboxRow = Sequence[Any]

# What is held back together: the events of one key in one topic.
Hold = tuple[str, bytes]


class Place(NamedTuple):
    """Where a row stands: its transaction's commit position, and which of its decoded rows it is, from 0.

    Rows that were there before the slot have no commit position: theirs is 0, and `nth` is `outbox.seq`.
    """

    commit_lsn: Lsn
    nth: int


def text_of(name: str | bytes) -> str:
    """A name as a row carries it, so that any text column takes it: what is not UTF-8 stays visible as such.

    Neither a zero byte nor half a surrogate pair can be in one; only what nobody could read holds it.
    """
    read = name if isinstance(name, str) else name.decode(errors="replace")
    return read.encode(errors="replace").decode().replace("\0", "�")


class OutboxTable(NamedTuple):
    """A table that outbox rows stream from, as the catalogue has it now: `columns` are (name, type's number)."""

    oid: bytes
    schema: str
    name: str
    columns: tuple[tuple[str, int], ...]


def unrouted(aggregatetype: str) -> str:
    """The name of the queue of what has no route; no topic is called like it."""
    # In a table that is not ours the type may be longer than an entry of the queue's index can be.
    return f"?{aggregatetype[:200]}"


def dead_letter_topic(topic: str) -> str:
    """Where the stuck messages of `topic` go with `on_stuck = "skip"`."""
    return f"{topic}.dead-letter"


class ParkedState(StrEnum):
    """What has become of a row that did not go out."""

    PARKED = "parked"
    HALTING = "halting"  # its policy halts the relay, which stands before it
    CONDEMNED = "condemned"  # an operator said to discard it where the relay stands
    DISCARDED = "discarded"
    DEAD_LETTERED = "dead_lettered"


class Parked(NamedTuple):
    """A row that waits in `dovetail.parked` instead of going out, and why. `message` is one line without a payload."""

    place: Place
    hold: Hold
    reason: str
    message: str
    state: ParkedState
    row: OutboxRow


class Part(NamedTuple):
    """How far into one large transaction the checkpoint has come.

    `commit_lsn` is the transaction's `Begin.final_lsn`; `next_index` counts decoded rows, parked ones included.
    """

    commit_lsn: Lsn
    next_index: int


class Position(NamedTuple):
    """Where a checkpoint stands: the identity that is compared after every fencing."""

    seq: int
    writer: str
    end_lsn: Lsn
    part: Part | None
    backfill: int | None


class CommandStep(NamedTuple):
    """How far an operator's command has come: `step` of command `id` is in Kafka once a checkpoint says so."""

    id: int
    step: int


class Sum(NamedTuple):
    """A set of events: how many, and their 128-bit ids XORed, which is the same in any order."""

    events: int
    ids: int


@dataclass(frozen=True, slots=True)
class TopicBooks:
    """What went to one topic, by when it was created: in the last minute, in hours, before. `text` says it in JSON."""

    total: Sum
    hours: Mapping[int, Sum]
    fine: Mapping[int, Sum]
    text: str


@dataclass(frozen=True, slots=True)
class Books:
    """What went out, by topic and time, in buckets of ten seconds since 1970; `books` has the arithmetic.

    Events created before `since` are in the totals only; those from `fine_from` on are kept bucket by bucket, except
    that some of hour `coarse` are among its hours already.
    """

    since: int
    fine_from: int
    topics: Mapping[str, TopicBooks]
    coarse: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The relay's durable progress, committed to Kafka in the same transaction as the events it speaks of.

    `end_lsn` is the end of the newest transaction that was published whole; `part` how far the next one has come.
    `backfill` is the next `outbox.seq` to publish of the rows that were there before the slot, None once they are out.
    `horizon` is the xmin of a snapshot taken at an LSN at or below `end_lsn`: each transaction below it is settled.
    `seq` grows by one with each checkpoint and `writer` names the process, since a bare LSN cannot tell "mine" from
    "somebody else's equal one". `command` stays in each checkpoint until its step is settled in the database;
    `parked_lsn` is the position behind the last write to `dovetail.parked` that it rests on; `audit` are number and
    hash of the newest entry of the audit log, so that the database's owner cannot write it anew unseen.
    """

    epoch: int
    seq: int
    writer: str
    system_id: str
    timeline: int
    database: str
    slot: str
    end_lsn: Lsn
    part: Part | None = None
    backfill: int | None = None
    horizon: int = 0
    parked_lsn: Lsn = LSN_ZERO
    command: CommandStep | None = None
    books: Books | None = None
    audit: tuple[int, str] | None = None

    def position(self) -> Position:
        """What two checkpoints are compared by."""
        return Position(self.seq, self.writer, self.end_lsn, self.part, self.backfill)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that go out in one Kafka transaction, and the progress that they make.

    `parked` are rows that it passes over: they are in the database before it commits. `command` is the step of an
    operator's command that it performs. `oldest_commit_us` and `newest_commit_us` are when its transactions
    were committed, µs since 2000-01-01, 0 where unknown.
    """

    records: list[Record]
    end_lsn: Lsn
    part: Part | None
    backfill: int | None = None
    transactions: int = 0
    oldest_commit_us: int = 0
    newest_commit_us: int = 0
    parked: Sequence[Parked] = ()
    command: CommandStep | None = None


class Verdict(StrEnum):
    """What a checkpoint that was read back says of the batch whose outcome was unknown."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    TORN = "torn"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the database says of itself and of the slot, read by the leader before it streams.

    `wal_lsn` is where its log ends: no stream has ever sent more.
    """

    system_id: str
    timeline: int
    database: str
    in_recovery: bool
    wal_lsn: Lsn
    slot_found: bool
    slot_plugin: str | None
    slot_database: str | None
    slot_lost: bool
    slot_temporary: bool
    confirmed_flush: Lsn
    publication_fingerprint: str | None


@dataclass(frozen=True, slots=True)
class RelayRow:
    """The row of `dovetail.relay` that `dovetail init` wrote."""

    name: str
    slot: str
    system_id: str
    consistent_point: Lsn
    snapshot: str | None
    epoch: int
    publication_fingerprint: str
    started: bool
    # While a recovery is under way: from which transaction on rows may be missing, and the command that asked for it.
    recovery_horizon: int | None = None
    recovery_command: int | None = None


@dataclass(frozen=True, slots=True)
class TimelineSwitch:
    """`timeline` ended at `switch_lsn`: one line of the server's timeline history."""

    timeline: int
    switch_lsn: Lsn
