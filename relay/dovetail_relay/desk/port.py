"""What the pipeline needs of the desk.

All three are called by the relay's loop, between batches: nothing else is under way. A step is one batch, which carries
no progress of its own; after `next_batch` gave one, exactly one of `confirmed` and `refused` follows, or the reign ends
and the checkpoint tells the next leader whether the step was committed.
"""

from __future__ import annotations

from typing import Protocol

from dovetail_relay.nouns import Batch, Checkpoint, CommandStep, Place


class Desk(Protocol):
    """The operator's commands, as far as the pipeline sees them."""

    def next_batch(self, base: Checkpoint) -> Batch | None:
        """The next step of the command that is under way, to be sent now; nothing else is under way."""

    def confirmed(self, step: CommandStep) -> None:
        """The step is in Kafka for good."""
        ...

    def refused(self, places: list[Place], topics: dict[str, str]) -> None:
        """The step came to nothing because of these rows, or of these topics; it is asked for again."""
        ...
