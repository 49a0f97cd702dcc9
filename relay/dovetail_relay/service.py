"""The relay process: stand by, lead, and decide what comes after each reign.

`main` returns the exit code. SIGTERM and SIGINT stop it: the batch under way ends or is given up, the slot and the
locks are free in under 5 s. What a reign raises is answered by its disposition: retry and restart begin again after a
pause, a halt keeps the process up, named on /readyz and in the metrics, and looks again whether its cause is gone.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
import select
import signal
import sys
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

import psycopg

from dovetail_relay.config import Settings, conninfo, kafka_properties
from dovetail_relay.errors import (
    Halt,
    Misconfigured,
    PostgresUnavailable,
    RelayError,
    StreamEnded,
    StreamRefused,
)
from dovetail_relay.health import HealthServer, HealthState
from dovetail_relay.logs import bind, configure, log
from dovetail_relay.nouns import Delivery
from dovetail_relay.publish.at_least_once import AtLeastOncePublisher
from dovetail_relay.publish.kafka import KafkaPublisher
from dovetail_relay.publish.port import Publisher
from dovetail_relay.refused import Refusals
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.registry.database import look_up_with
from dovetail_relay.registry.http import registry_app
from dovetail_relay.reign import Reign
from dovetail_relay.source import timeline
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.replication import connect
from dovetail_relay.surroundings import Surroundings
from dovetail_relay.telemetry import LogEvent, Telemetry

# The one standby that is seated asks for the lead this often: half of it is lost at each takeover. A question takes the
# server 30 us.
STANDBY_POLL_SECONDS = (0.02, 0.08)
# One that is not even seated: fifty sidecars are not fifty connections.
BENCH_SECONDS = (20.0, 40.0)
EVICT_EVERY_SECONDS = 1.0
HALT_RECHECK_SECONDS = 5.0
BACKOFF_SECONDS = (0.05, 5.0)


def transactional_id(system_id: str, database: str, slot: str) -> str:
    """The same for every replica of one relay, and for no other: it is derived, never configured."""
    return "dovetail." + hashlib.sha256(f"{system_id}/{database}/{slot}".encode()).hexdigest()[:32]


class Relay:
    """`run()` until `stop()`. `on_step` is called at each named step; in production it does nothing."""

    def __init__(self, settings: Settings, *, on_step: Callable[[str], None] = lambda _step: None) -> None:
        self._settings = settings
        self._on_step = on_step
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._stopping = False
        self._was_ready = False
        self._newborn = True
        self._benched = False
        self._writer = uuid.uuid4().hex[:12]
        self.telemetry = Telemetry(version=_version())
        self.state = HealthState()
        self._registry = BuiltinRegistry(look_up_with(self._short_connection))
        self._publisher: Publisher | None = None
        self._refusals = Refusals(settings.relay.slot, recoverable=not settings.outbox.foreign)
        self.health = HealthServer(
            settings.relay.http_host,
            settings.relay.http_port,
            self.state,
            registry_app(self._registry),
            self.telemetry,
        )

    def stop(self) -> None:
        """Safe from a signal handler."""
        self._stopping = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def run(self) -> None:
        """Stand by and lead, again and again, until stopped. Raises Misconfigured before the first readiness only."""
        settings = self._settings
        self.telemetry.describe(
            relay=settings.relay.name, slot=settings.relay.slot, delivery=settings.delivery.mode.value
        )
        self.health.start()
        log(LogEvent.HEALTH_LISTENING, "listening", host=settings.relay.http_host, port=self.health.port)
        backoff = BACKOFF_SECONDS[0]
        try:
            while not self._stopping:
                # The rooms of a reign that has ended know each other, and hold the rows that waited. The collector
                # looks for such seldom (see `main`), and here the error is forgotten that has ended it.
                gc.collect()
                try:
                    self._once()
                    backoff = BACKOFF_SECONDS[0]
                except Halt as halt:
                    self._halted(halt)
                except StreamEnded as ended:
                    refused = self._refusals.after(ended, time.monotonic())
                    if refused is None:
                        self._stumbled(ended, backoff)
                        backoff = min(backoff * 2, BACKOFF_SECONDS[1])
                    else:
                        self._halted(refused)
                except RelayError as error:
                    self._stumbled(error, backoff)
                    backoff = min(backoff * 2, BACKOFF_SECONDS[1])
        finally:
            self.health.stop()
            log(LogEvent.RELAY_STOPPED, "stopped")

    def _once(self) -> None:
        """One session: wait for the lead, and lead."""
        settings = self._settings
        session = LockSession(conninfo(settings, "relay"), slot=settings.relay.slot, relay=settings.relay.name)
        try:
            self.telemetry.connected("postgres", connected=True)
            if not self._stand_by(session):
                session.close()
                self._wait_on_the_bench()
                return
            self.telemetry.leader(leads=True)
            log(LogEvent.LEAD_TAKEN, "leading", slot=settings.relay.slot)
            self._on_step("lead")
            publisher = self._publisher or self._build_publisher()
            self._publisher = None
            Reign(session, self._surroundings(publisher)).run()
        finally:
            self.telemetry.leader(leads=False)
            session.close()

    def _stand_by(self, session: LockSession) -> bool:
        """Wait for the lead. False when told to stop, or when there is no seat: then the session is given up."""
        if session.try_lead():
            self._benched = False
            return True
        if not session.try_seat():
            if not self._benched:
                # Once: it asks for as long as the others live.
                self._benched = True
                log(LogEvent.NO_SEAT, "another relay leads and one stands by; asks again every half a minute or so")
            return False
        self._benched = False
        log(LogEvent.STANDING_BY, "another relay leads; standing by, warm")
        self._publisher = self._publisher or self._build_publisher()
        self.telemetry.ready(ready=True)
        self.state.ready("standby")
        self._was_ready = True
        evict_at = time.monotonic() + EVICT_EVERY_SECONDS
        while not self._stopping:
            if session.try_lead():
                session.leave_seat()
                return True
            self.state.progress()
            if time.monotonic() >= evict_at:
                evict_at = time.monotonic() + EVICT_EVERY_SECONDS
                ended = session.evict_frozen(self._settings.relay.lease_seconds)
                if ended:
                    log(LogEvent.STALE_LEADER_ENDED, "ended a leader that was silent for a lease", pids=ended)
            self._sleep(random.uniform(*STANDBY_POLL_SECONDS))  # noqa: S311 - jitter, not a secret
        return False

    def _wait_on_the_bench(self) -> None:
        """Neither leader nor seated: ready, without any connection, until it is time to ask again."""
        if self._stopping:
            return
        self.telemetry.ready(ready=True)
        self.telemetry.connected("postgres", connected=False)
        self.state.ready("standby")
        self._was_ready = True
        until = time.monotonic() + random.uniform(*BENCH_SECONDS)  # noqa: S311 - jitter, not a secret
        while not self._stopping and (left := until - time.monotonic()) > 0:
            # The loop turns: that is all the progress that a relay without a connection can make.
            self.state.progress()
            self._sleep(min(left, 1.0))

    def _build_publisher(self) -> Publisher:
        settings = self._settings
        with connect(conninfo(settings, "relay")) as replication:
            system_id, _timeline = timeline.identify(replication)
            database = replication.info.dbname
        make = KafkaPublisher if settings.delivery.mode is Delivery.EXACTLY_ONCE else AtLeastOncePublisher
        return make(
            dict[str, Any](kafka_properties(settings)),
            transactional_id=transactional_id(system_id, database, settings.relay.slot),
            checkpoint_topic=settings.checkpoint_topic,
            relay=settings.relay.name,
            on_step=self._on_step,
            on_client_error=self.telemetry.error,
        )

    def _first_reign(self) -> bool:
        first, self._newborn = self._newborn, False
        return first

    def _note_ready(self) -> None:
        self._was_ready = True
        # Only now: a halt that lasts over many looks at its cause is one halt, not many.
        self.telemetry.halted(None)

    def _short_connection(self) -> psycopg.Connection[Any]:
        """For the HTTP threads, which must not share the lock session."""
        return psycopg.connect(conninfo(self._settings, "relay"), autocommit=True)

    def _surroundings(self, publisher: Publisher) -> Surroundings:
        return Surroundings(
            settings=self._settings,
            publisher=publisher,
            registry=self._registry,
            telemetry=self.telemetry,
            state=self.state,
            writer=self._writer,
            on_step=self._on_step,
            on_streaming=self._note_ready,
            stopping=lambda: self._stopping,
            newborn=self._first_reign,
            wake_fd=self._wake_read,
        )

    def _halted(self, halt: Halt) -> None:
        if isinstance(halt, Misconfigured) and not self._was_ready:
            # A wrong setting at the first start: a person is watching, and a process that ends says so best.
            raise halt
        self.telemetry.halted(halt.name)
        self.telemetry.ready(ready=False)
        self.state.halted(halt)
        log(LogEvent.RELAY_HALTED, halt.line(), error=halt.name, halt=halt.name, next=halt.remedy)
        # Whether the server can send it by now shows only while it streams, and it looks as if all were well.
        self._sleep(HALT_RECHECK_SECONDS * (3 if isinstance(halt, StreamRefused) else 1))

    def _stumbled(self, error: RelayError, pause: float) -> None:
        self.telemetry.error(error.name)
        self.telemetry.ready(ready=False)
        if isinstance(error, PostgresUnavailable):
            self.telemetry.connected("postgres", connected=False)
        self.state.waiting(error.name.lower().replace("_", " "), error.remedy)
        log(LogEvent.RELAY_RESTARTING, error.line(), error=error.name)
        self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not through a signal, and with a sign of life now and then."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self._wake_read], [], [], min(left, 1.0))
            if readable:
                return
            self.state.turned()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - only here, and not cheap

    try:
        return version("dovetail")
    except PackageNotFoundError:
        return "unknown"


def main(settings: Settings, *, on_step: Callable[[str], None] = lambda _step: None) -> int:
    """Run the relay in this process until a signal; returns the exit code."""
    configure(level=settings.log.level, output=settings.log.format, stream=sys.stderr)
    bind(relay=settings.relay.name)
    relay = Relay(settings, on_step=on_step)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        relay.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    log(LogEvent.RELAY_STARTED, "starting", slot=settings.relay.slot, delivery=settings.delivery.mode.value)
    # The hot path makes many small objects and no cycles: with the default thresholds the collector walks the waiting
    # rows again and again, which costs as much as decoding them.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    relay.run()
    return 0
