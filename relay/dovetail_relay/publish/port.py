"""What the pipeline needs of a publisher.

Threads: `send` is called by the relay's loop; `fence` and `settle` by the side thread, never both at once, and never
while the loop is in `send`. After any outcome but COMMITTED or DELIVERED, and after any exception, the only call
allowed is `fence`.

Promised: when `settle` says COMMITTED, the records and the checkpoint are visible to `read_committed` readers, all or
none of them. Not promised: anything at all about a batch whose outcome is UNKNOWN; `fence` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dovetail_relay.nouns import Checkpoint, Record


class Result(StrEnum):
    COMMITTED = "committed"  # records and checkpoint are durable
    DELIVERED = "delivered"  # at_least_once: records are durable, the checkpoint was left for later
    UNKNOWN = "unknown"  # anything may have happened: fence and read


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that the client or the broker refused. `index` is its place in the batch, None where that is unknown.

    `whole_topic`: it is not the record but the topic that nothing can be written to.
    """

    topic: str
    code: str
    index: int | None
    whole_topic: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """`all_acknowledged` is whether each event was acknowledged before the commit was asked for."""

    result: Result
    reason: str
    all_acknowledged: bool
    refusals: tuple[Refusal, ...] = ()
    commit_seconds: float = 0.0


class Publisher(Protocol):
    def fence(self, timeout: float) -> bool:
        """One attempt, with a fresh producer, to end the predecessor's transaction. False: try again. Raises a Halt."""
        ...

    def read(self, timeout: float) -> Checkpoint | None:
        """The newest committed checkpoint, up to the high watermark. Only after a successful `fence`."""

    def isolate(self, *, alone: bool) -> None:
        """From the next `fence` on send each record in a request of its own, so that a refusal says which it was.

        A batch that was sent so is never COMMITTED at once: its slow producer is given up, and `fence` tells.
        """

    def partitions(self, topic: str, timeout: float) -> int | None:
        """How many partitions `topic` has, None where it does not exist. Raises KafkaUnavailable."""

    def expect(self, counts: Mapping[str, int]) -> None:
        """So many partitions these topics have as it is recorded, be they there now or not. Where one has more,
        `settle` raises PartitionsChanged."""

    def send(self, records: list[Record]) -> Outcome | None:
        """Open a transaction and hand over the records. An Outcome where that failed already."""

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Outcome:
        """Wait for the events, then write the checkpoint and commit; `write` may be False in at_least_once only."""
        ...

    def close(self) -> None:
        """Give everything up. Never waits for Kafka; an open transaction is left for the next leader to end."""
