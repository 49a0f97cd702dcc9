"""What a leader does beside its work: it empties leaves of the ring. A thread that nearly always sleeps.

The loop hands over the durable checkpoint, which nobody changes any more, and waits for nothing here. The thread has
short connections of its own, whose statements are bounded by the server, and dies with the reign. What it still does
when the lead is lost rests on an older checkpoint than its successor's, and so only on less.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from dovetail_relay.config import scrubbed
from dovetail_relay.logs import log
from dovetail_relay.nouns import Checkpoint
from dovetail_relay.retention import Now, Ring, Session, look, open_session
from dovetail_relay.telemetry import LogEvent, Telemetry

EVERY_SECONDS: Final = 10.0
# Whatever the tables have grown to: at most a twentieth of the time is spent on them.
_REST_PER_WORK: Final = 20.0


class Housekeeper:
    """The thread of one reign. `hand_over` and `stop` return at once and may be called from the loop."""

    def __init__(
        self, *, conninfo: Callable[[], str], ring: Ring, telemetry: Telemetry, every_seconds: float = EVERY_SECONDS
    ) -> None:
        self._conninfo = conninfo
        self._ring = ring
        self._telemetry = telemetry
        self._every_seconds = every_seconds
        self._durable: Checkpoint | None = None
        self._swept_day: int | None = None
        self._complained: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dovetail-housekeeping", daemon=True)

    def start(self) -> None:
        """Begin; the first look comes after a pause."""
        self._thread.start()

    def hand_over(self, durable: Checkpoint) -> None:
        """The newest checkpoint that is known to be durable."""
        self._durable = durable

    def stop(self) -> None:
        """The reign is over. Does not wait: a statement may still run for as long as the server lets it."""
        self._stopping.set()

    def _run(self) -> None:
        pause = self._every_seconds
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                if self._durable is not None:
                    self._round(self._durable)
                self._complained = None
            except Exception as error:  # noqa: BLE001 - the next round may fare better, and the relay's work goes on
                self._complain(error)
            pause = max(self._every_seconds, (time.monotonic() - started) * _REST_PER_WORK)
        self._telemetry.ring(oldest_day=None, overdue_seconds=None)

    def _round(self, durable: Checkpoint) -> None:
        with open_session(self._conninfo()) as session:
            now, used = look(session)
            self._tend(session, durable, now, used)

    def _tend(self, session: Session, durable: Checkpoint, now: Now, used: set[int]) -> None:
        # Rows from before the slot are published by their own numbers: until all are out, the horizon tells nothing.
        settled = durable.horizon if durable.backfill is None else 0
        kept = self._ring.tend(session, settled, now, used)
        self._telemetry.ring(oldest_day=kept.oldest_day, overdue_seconds=kept.overdue_seconds)
        if self._swept_day != now.today and self._ring.forget(session, now):
            self._swept_day = now.today

    def _complain(self, error: Exception) -> None:
        """Once per kind of trouble: a server that is down is told about by the loop."""
        kind = getattr(error, "sqlstate", None) or type(error).__name__
        if kind != self._complained:
            self._complained = kind
            text = scrubbed(error) if isinstance(error, psycopg.Error) else f"{type(error).__name__}: {error}"
            log(LogEvent.HOUSEKEEPING_FAILED, f"the outbox could not be tended: {text}", error=kind)
