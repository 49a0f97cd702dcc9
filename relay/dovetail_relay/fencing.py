"""Steps 2 and 3 of the algorithm: end the predecessor's transaction, then read the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dovetail_relay.nouns import Checkpoint
from dovetail_relay.publish.port import Publisher

# Short first attempts, each with a fresh producer: librdkafka waits a fixed 500 ms inside one.
_SHORT: Final = (0.05, 0.1, 0.15, 0.25, 0.4)
_LONG: Final = 15.0
_READ_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Fenced:
    """The predecessor is fenced, and this is the newest checkpoint."""

    found: Checkpoint | None


def patience(attempt: int) -> float:
    """How long the attempt with this number, from 0, may take, in seconds."""
    return _SHORT[attempt] if attempt < len(_SHORT) else _LONG


def short_attempts_over(attempts: int) -> bool:
    """Whether so many attempts were all the short ones: the next waits long."""
    return attempts == len(_SHORT)


def fence_and_read(publisher: Publisher, timeout: float) -> Fenced | None:
    """One attempt; None where it should be tried again. Runs on the side thread."""
    if not publisher.fence(timeout):
        return None
    return Fenced(publisher.read(_READ_TIMEOUT))
