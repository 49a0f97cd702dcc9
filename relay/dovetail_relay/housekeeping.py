"""What a leader does beside its work: it compares the books, and empties leaves of the ring. It mostly sleeps.

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

from dovetail_relay.bookkeeping import Bookkeeper
from dovetail_relay.comparison import Comparison
from dovetail_relay.config import Settings, conninfo, scrubbed
from dovetail_relay.logs import log
from dovetail_relay.machine import Machine
from dovetail_relay.nouns import Checkpoint
from dovetail_relay.retention import Now, Ring, Session, look, open_session
from dovetail_relay.telemetry import LogEvent, Telemetry

EVERY_SECONDS: Final = 10.0
# Whatever the tables have grown to: at most a twentieth of the time is spent on them.
_REST_PER_WORK: Final = 20.0


class Housekeeper:
    """The thread of one reign. `hand_over` and `stop` return at once and may be called from the loop."""

    def __init__(
        self,
        *,
        conninfo: Callable[[], str],
        ring: Ring,
        comparison: Comparison,
        telemetry: Telemetry,
        every_seconds: float,
    ) -> None:
        self._conninfo = conninfo
        self._ring = ring
        self._comparison = comparison
        self._telemetry = telemetry
        self._every_seconds = every_seconds
        self._durable: Checkpoint | None = None
        self._swept_day: int | None = None
        self._complained: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dovetail-housekeeping", daemon=True)

    def hand_over(self, machine: Machine) -> None:
        """The newest checkpoint that is known to be durable, for what was found out about its books.

        The first time the work begins, after a pause.
        """
        if self._durable is None:
            self._thread.start()
        self._durable = machine.durable
        if machine.bookkeeper is not None:
            machine.bookkeeper.verified_hour = self._comparison.balance.verified_hour

    def stop(self) -> None:
        """The reign is over. Does not wait: a statement may still run for as long as the server lets it."""
        self._stopping.set()

    def _run(self) -> None:
        pause = self._every_seconds
        while not self._stopping.wait(pause):
            started = time.monotonic()
            try:
                self._round()
                self._complained = None
            except Exception as error:  # noqa: BLE001 - the next round may fare better, and the relay's work goes on
                self._complain(error)
            pause = max(self._every_seconds, (time.monotonic() - started) * _REST_PER_WORK)
        self._telemetry.ring(oldest_day=None, overdue_seconds=None)
        self._telemetry.books(balanced=None)

    def _round(self) -> None:
        durable = self._durable
        if durable is None:
            return
        with open_session(self._conninfo()) as session:
            now, used = look(session)
            try:
                self._tend(session, durable, now, used)
            finally:
                self._comparison.look(session, durable)

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


def housekeeper_for(settings: Settings, telemetry: Telemetry) -> Housekeeper | None:
    """None where the outbox is the user's own table: nothing in it is ours to count or to empty."""
    if settings.outbox.foreign:
        return None
    return Housekeeper(
        conninfo=lambda: conninfo(settings, "relay"),
        ring=Ring(relay=settings.relay.name, retention_days=settings.outbox.retention_days),
        comparison=Comparison(settings, telemetry),
        telemetry=telemetry,
        every_seconds=EVERY_SECONDS,
    )


def bookkeeper_for(settings: Settings) -> Bookkeeper | None:
    """The same for the books."""
    return None if settings.outbox.foreign else Bookkeeper(unkept=settings.outbox.messages)
