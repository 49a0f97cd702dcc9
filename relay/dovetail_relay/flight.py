"""The batch that is under way, and when the next one is full."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail_relay.nouns import Batch, Checkpoint
from dovetail_relay.publish.port import Refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is full, and how long the next one waits after a commit.

    The pause is for a busy stream: starting at once meets the last transaction's unwritten markers, and librdkafka then
    waits a fixed 20 ms.
    """

    rows: int
    bytes: int
    pause_seconds: float


@dataclass(slots=True)
class InFlight:
    """The batch whose outcome is awaited."""

    batch: Batch
    checkpoint: Checkpoint
    sent_at: float
    write: bool
    all_acknowledged: bool = False
    refusals: tuple[Refusal, ...] = ()
