"""Whether the server cannot send what comes next: the stream ends at one place, again and again, for the same reason.

A row that PostgreSQL stores and cannot send, of more than a gigabyte in all, or WAL that it cannot decode, ends every
stream where the last one ended. That is no stumble: nothing behind it would ever be published. Pure.
"""

from __future__ import annotations

from typing import Final

from dovetail_relay.errors import StreamEnded, StreamRefused
from dovetail_relay.nouns import LSN_ZERO, Lsn, lsn_text

# For so long, and so often in it, it may be chance: memory that was short, a server that was about to go down.
TIMES: Final = 3
SPAN_SECONDS: Final = 60.0
# Ends that lie further apart than this have nothing to do with each other: the stream was well in between.
APART_SECONDS: Final = 60.0
# The connection, or somebody who ended it; what the server lacks for a while; what the next admission names by itself.
_OTHERS: Final = ("08", "53", "57", "58", "42704", "55000")


class Refusals:
    """The ends of one process's streams, in a row. `slot` and `recoverable` are for the way out."""

    def __init__(self, slot: str, *, recoverable: bool) -> None:
        self._slot = slot
        self._recoverable = recoverable
        self._why = ""
        self._at: Lsn = LSN_ZERO
        self._times = 0
        self._since = self._newest = 0.0

    def after(self, ended: StreamEnded, now: float) -> StreamRefused | None:
        """The halt that this end of a stream is, None where it may be chance. `now` is any clock's, in seconds."""
        state = ended.sqlstate
        if state is None or state.startswith(_OTHERS):
            return None
        if (state, ended.at) != (self._why, self._at) or now - self._newest > APART_SECONDS:
            self._why, self._at, self._times, self._since = state, ended.at, 0, now
        self._times += 1
        self._newest = now
        if self._times < TIMES or now - self._since < SPAN_SECONDS:
            return None
        way = f"dovetail slot drop --slot {self._slot}, then dovetail recover"
        return StreamRefused(
            f"PostgreSQL cannot send what comes after {lsn_text(ended.at)}: {ended} (SQLSTATE {state})",
            remedy=way if self._recoverable else "dovetail doctor",
        )
