"""The leader's sign of life on its lock session, and what each one brings: metrics, commands, the horizon.

A standby evicts a leader whose session was silent for a lease. The same round trip is the only proof that the lock is
still held: what must not be done without it asks here first.
"""

from __future__ import annotations

import time
from typing import Final

from dovetail_relay.desk.desk import OperatorDesk
from dovetail_relay.errors import LeadLost, Retry
from dovetail_relay.housekeeping import Housekeeper
from dovetail_relay.nouns import Lsn
from dovetail_relay.pipeline import Pipeline
from dovetail_relay.source.lead import LockSession
from dovetail_relay.surroundings import Surroundings
from dovetail_relay.suspicion import Suspicion
from dovetail_relay.watch import Watch

# The working loop touches its session this often; a standby evicts a leader that has not for a lease.
PULSE_SECONDS: Final = 2.0


class Heartbeat:
    """What is looked after with each beat is handed over as it comes to be. Not thread-safe."""

    def __init__(
        self, session: LockSession, given: Surroundings, watch: Watch, housekeeper: Housekeeper | None
    ) -> None:
        self._session = session
        self._given = given
        self._watch = watch
        self._housekeeper = housekeeper
        self._due = 0.0
        # A transaction id below which all is settled, once the checkpoint has come to the position beside it.
        self._horizon: tuple[int, Lsn] | None = None
        self.pipeline: Pipeline | None = None
        self.desk: OperatorDesk | None = None
        self.suspicion: Suspicion | None = None

    def beat(self, *, force: bool = False) -> None:
        """Touch the session where that is due, or `force` says so. Raises LeadLost where it has ended."""
        now = time.monotonic()
        if not force and now < self._due:
            return
        self._due = now + PULSE_SECONDS
        pulse = self._session.pulse()
        self._given.state.turned()
        self._given.telemetry.slot(
            active=pulse.slot_active,
            retained_wal_bytes=pulse.retained_bytes,
            safe_wal_bytes=None if pulse.safe_wal_bytes < 0 else pulse.safe_wal_bytes,
        )
        if self.pipeline is not None:
            self._look_after(self.pipeline, now, pulse.insert_lsn)
            self._move_horizon(self.pipeline, pulse.xmin, pulse.insert_lsn)

    def lock_held(self) -> bool:
        """Whether the server says, now, that this session is alive: its lock lives as long."""
        try:
            self.beat(force=True)
        except (LeadLost, Retry):
            return False
        return True

    def _look_after(self, pipeline: Pipeline, now: float, insert_lsn: Lsn) -> None:
        pipeline.observe(insert_lsn)
        self._watch.look(now, pipeline.machine)
        if self._housekeeper is not None:
            self._housekeeper.hand_over(pipeline.machine)
        if self.desk is not None:
            self.desk.look()
        if self.suspicion is not None:
            self.suspicion.look(pipeline.machine.durable)

    def _move_horizon(self, pipeline: Pipeline, xmin: int, insert_lsn: Lsn) -> None:
        durable = pipeline.machine.durable
        # While rows from before the slot are still to come, what is settled is not yet published.
        if self._horizon is not None and self._horizon[1] <= durable.end_lsn and durable.backfill is None:
            pipeline.horizon = self._horizon[0]
            self._horizon = None
        if self._horizon is None:
            self._horizon = (xmin, insert_lsn)
