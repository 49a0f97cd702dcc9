"""The sentence that joins the rooms: take what streamed, cut a batch, send it, wait for its outcome, report.

    stream ─▶ take ─▶ ledger ─▶ seal ─▶ publisher ─▶ outcome ─▶ machine ─▶ report ─▶ stream

One thread turns this loop; a second only waits for Kafka. While one batch is being committed, the next is read and
decoded. Nothing here waits for anything but the sockets, and never for long.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from functools import partial

from dovetail_relay.desk.port import Desk
from dovetail_relay.errors import Fenced as FencedOff
from dovetail_relay.errors import Halt, KafkaUnavailable, PoisonHeld
from dovetail_relay.fencing import Fenced, fence_and_read, patience
from dovetail_relay.flight import InFlight, Limits
from dovetail_relay.intake import Intake
from dovetail_relay.ledger import Ledger
from dovetail_relay.leftovers import Leftovers, told
from dovetail_relay.logs import log
from dovetail_relay.machine import Machine, Step
from dovetail_relay.nouns import Batch, Checkpoint, Lsn, Place
from dovetail_relay.publish.port import Outcome, Publisher, Result
from dovetail_relay.side import SideThread
from dovetail_relay.source.replication import ReplicationStream
from dovetail_relay.suspicion import Suspicion
from dovetail_relay.telemetry import LogEvent, Telemetry

# Idle positions are written at most this often: an idle database needs no Kafka transaction per keepalive.
IDLE_CHECKPOINT_SECONDS = 10.0
# at_least_once: how often the checkpoint follows, off the latency path.
LAZY_CHECKPOINT_SECONDS = 1.0
# Rows older than this when they arrive are a backlog: then a batch is filled before it is sent.
BACKLOG_US = 250_000
FILL_SECONDS = 0.05
READ_LIMIT = 2000
# Kafka silent for so long: the stream is closed, or it would hold up a shutdown of the database.
KAFKA_SILENT_SECONDS = 10.0


class Pipeline:
    """One reign of a leader. Not thread-safe. Raises what ends the reign: a Restart, a Retry or a Halt."""

    def __init__(
        self,
        *,
        intake: Intake,
        machine: Machine,
        publisher: Publisher,
        side: SideThread[object],
        limits: Limits,
        telemetry: Telemetry,
        lock_held: Callable[[], bool],
        on_step: Callable[[str], None],
        leftovers: Leftovers,
        lazy_checkpoint: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake = intake
        self.machine = machine
        self._publisher = publisher
        self._side = side
        self._limits = self._full = limits
        self._suspicion: Suspicion | None = None
        self._telemetry = telemetry
        self._lock_held = lock_held
        self._on_step = on_step
        self._lazy = lazy_checkpoint
        self._clock = clock
        self.stream: ReplicationStream | None = None
        self.in_flight: InFlight | None = None
        self.horizon = machine.durable.horizon
        self.drained = True  # whether the last read emptied the socket: only then is waiting for it right
        self._first_waiting_at = 0.0
        self._committed_at = 0.0
        self._checkpoint_at = clock()
        self._attempts = 0
        self._stopping = False
        self._halt: Halt | None = None
        self._leftovers = leftovers
        self.desk: Desk | None = None
        self._command_was_last = False
        self.given_up = 0  # how often a batch was, to be taken again from where it came
        self.restart()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Do everything that can be done now, without waiting. Whether something came from PostgreSQL."""
        took = self.stream is not None and self.reading and self._read(self.stream)
        done = self._side.poll()
        if done is not None:
            self._settle(*done)
        if self.in_flight is None and not self._stopping:
            self._send_next()
            if self._halt is not None and self.in_flight is None and not self.ledger.cut_ready:
                self._end_with(self._halt)
        if self.stream is not None:
            self.stream.report(self.machine.durable.end_lsn)
            self.stream.heartbeat()
        return took

    @property
    def reading(self) -> bool:
        """Whether there is room: one batch may wait while another is under way; memory stays bounded."""
        ledger, limits = self.ledger, self._limits
        if self._suspicion is not None and self.in_flight is not None:
            return False
        return self._halt is None and ledger.rows < limits.rows and ledger.bytes < limits.bytes

    def be_careful(self, suspicion: Suspicion) -> None:
        """Take rows one by one while that is called for, and each as far as into Kafka before the next."""
        careful = suspicion.goes_on()
        self._suspicion = suspicion if careful else None
        self._intake.before_each = suspicion.before_each if careful else None
        self._limits = Limits(1, self._full.bytes, 0.0) if careful else self._full

    def wait_seconds(self) -> float:
        """How long the loop may sleep at most before there is something to do without any socket's word."""
        if self.in_flight is not None or not self.ledger.cut_ready:
            return 0.1
        return max(0.0, self._due_at() - self._clock())

    @property
    def kafka_silent(self) -> bool:
        """Whether a batch has waited for Kafka for so long that the stream should be closed."""
        flight = self.in_flight
        return flight is not None and self._clock() - flight.sent_at > KAFKA_SILENT_SECONDS

    @property
    def bloated(self) -> bool:
        """Whether the stream holds a buffer for something too large that would not come again from a new stream."""
        large = self._intake.large_lsn
        return large is not None and self.in_flight is None and self.machine.durable.end_lsn > large

    def attach(self, stream: ReplicationStream) -> None:
        """Begin to read; the stream starts at the durable checkpoint."""
        self.stream = stream
        self.restart()

    def detach(self) -> None:
        """Close the stream and drop what was read but not sent: it will stream again."""
        self.hang_up()
        self._halt = None
        self.restart()

    def hang_up(self) -> None:
        """Close the stream. Asks the database nothing: it may be gone."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def restart(self) -> None:
        """Forget what was taken in, and what was held because of it; the database knows what is held."""
        self._leftovers.begin()
        self._intake.restart(self.machine.base)

    def finish(self, seconds: float) -> None:
        """Send nothing new, let what is under way end; in at_least_once the checkpoint catches up with the events."""
        self._stopping = True
        deadline = self._clock() + seconds
        while self._clock() < deadline:
            if self.in_flight is None:
                self.send(self.uncovered(), write=True)
            if self.in_flight is None:
                return
            select.select([self._side.fileno()], [], [], 0.05)
            self.turn()

    @property
    def ledger(self) -> Ledger:
        """What was taken in and not yet sent."""
        return self._intake.ledger

    # -- stream → ledger ----------------------------------------------------------------------------------------------

    def _read(self, stream: ReplicationStream) -> bool:
        if self._suspicion is not None:
            self.be_careful(self._suspicion)
        frames = stream.read(READ_LIMIT if self._suspicion is None else 1, self._limits.bytes)
        self.drained = stream.drained
        if frames:
            if not self.ledger.rows:
                self._first_waiting_at = self._clock()
            try:
                self._intake.take(frames)
            except Halt as halt:
                # What was committed before the event that halts us goes out first; nothing is read behind it.
                self._halt = halt
            self._telemetry.progress(received_lsn=stream.received)
        return bool(frames)

    # -- ledger → Kafka -----------------------------------------------------------------------------------------------

    def _due_at(self) -> float:
        """When the waiting rows should go out: the first of a reign at once, for they have waited for a leader."""
        if (
            self._committed_at
            and self._intake.behind_us > BACKLOG_US
            and self.ledger.rows < self._limits.rows
            and self.reading
        ):
            return self._first_waiting_at + FILL_SECONDS
        return self._committed_at + self._limits.pause_seconds

    def _send_next(self) -> None:
        now = self._clock()
        self._leftovers.reopen(now)
        if self._send_command():
            return
        self._command_was_last = False
        ledger, limits = self.ledger, self._limits
        if ledger.cut_ready:
            if now >= self._due_at() or ledger.rows >= limits.rows or ledger.bytes >= limits.bytes:
                self.send(ledger.seal(limits.rows, limits.bytes))
        elif ledger.in_transaction:
            self.send(ledger.seal(limits.rows, limits.bytes))
        elif self.machine.pending is not None and now - self._checkpoint_at >= LAZY_CHECKPOINT_SECONDS:
            self.send(self.uncovered(), write=True)
        elif now - self._checkpoint_at >= IDLE_CHECKPOINT_SECONDS:
            self.send(ledger.seal_idle())

    def _send_command(self) -> bool:
        """A step of the operator's command, in turn with what streams."""
        if self.desk is None or (self._command_was_last and self.ledger.cut_ready):
            return False
        batch = self.desk.next_batch(self.machine.base)
        if batch is None:
            return False
        self._command_was_last = True
        self.send(batch, write=True)
        return True

    def _end_with(self, halt: Halt) -> None:
        if (batch := self.uncovered()) is None:
            self.halts(halt)
            raise halt
        self.send(batch, write=True)  # or what was delivered would be sent again at each new look at the cause

    def halts(self, halt: Halt) -> None:
        """Write down the row before which the relay stands, for `dovetail stuck`."""
        if isinstance(halt, PoisonHeld) and halt.parked is not None:
            self._leftovers.write_halting(halt.parked, self.machine.durable.epoch)

    def send(self, batch: Batch | None, *, write: bool = False) -> None:
        """Hand a batch to Kafka; None is nothing to do. `write`: with its checkpoint, also in at_least_once."""
        if batch is None:
            return
        if batch.part is not None and batch.part.next_index == len(batch.records):
            log(LogEvent.LARGE_TRANSACTION, "one transaction goes out in parts: readers may see its beginning first")
        missing = self._leftovers.missing_topics(batch)
        if missing:
            self._leftovers.close(missing, self._clock())
            self._give_up(batch, [], missing)
            return
        self._write_parked(batch)
        checkpoint = self.machine.propose(batch, horizon=self.horizon)
        # A search for poison comes on only as far as the checkpoint does.
        write = write or not self._lazy or self._suspicion is not None
        self._dispatch(InFlight(batch, checkpoint, self._clock(), write=write))
        if self.ledger.rows:
            self._first_waiting_at = self._clock()

    def uncovered(self) -> Batch | None:
        """at_least_once: nothing but the checkpoint of what was delivered before, where that is not yet written."""
        pending = self.machine.pending
        return None if pending is None else Batch([], pending.end_lsn, pending.part, pending.backfill)

    def _dispatch(self, flight: InFlight) -> None:
        self.in_flight = flight
        due = flight.write or self._clock() - self._checkpoint_at >= LAZY_CHECKPOINT_SECONDS
        flight.write = self.machine.must_write(lazy=self._lazy, due=due)
        if (outcome := self._publisher.send(flight.batch.records)) is not None:
            self._recycle(flight, outcome)
        else:
            if self._suspicion is not None and flight.batch.command is None:
                self._suspicion.handed_over()
            self._side.submit(partial(self._publisher.settle, flight.checkpoint, write=flight.write))

    def _write_parked(self, batch: Batch) -> None:
        self.machine.rests_on(self._leftovers.write(batch, self.machine.durable.epoch))
        if batch.parked:
            self._on_step("parked")

    def _give_up(self, batch: Batch, places: list[Place], topics: dict[str, str]) -> None:
        """Take the batch again from where it came from, now that it is known which rows or topics are refused."""
        self.machine.abandon()
        self.in_flight = None
        self.given_up += 1
        if batch.command is not None and self.desk is not None:
            self.desk.refused(places, topics)
        else:
            self._leftovers.forget_beyond(self.machine.base)
            self.detach()

    # -- outcome → machine --------------------------------------------------------------------------------------------

    def _settle(self, result: object, error: BaseException | None) -> None:
        if isinstance(error, KafkaUnavailable):
            self._fence_again()
        elif error is not None:
            raise error
        elif isinstance(result, Outcome):
            self._on_outcome(result)
        elif isinstance(result, Fenced):
            self._on_recycled(result.found)
        else:
            self._fence_again()

    def _on_outcome(self, outcome: Outcome) -> None:
        flight = self.in_flight
        if flight is None:
            raise RuntimeError("an outcome without a batch")
        if outcome.result is Result.COMMITTED:
            self._publisher.isolate(alone=False)
            self.machine.committed()
            self._confirmed(flight, outcome.commit_seconds)
        elif outcome.result is Result.DELIVERED:
            self._publisher.isolate(alone=False)
            self.machine.delivered()
            self._finished(flight, outcome.commit_seconds)
        else:
            self._recycle(flight, outcome)

    def _recycle(self, flight: InFlight, outcome: Outcome) -> None:
        self._telemetry.recycled(outcome.reason)
        flight.all_acknowledged, flight.refusals = outcome.all_acknowledged, outcome.refusals
        # Refused, and nobody knows which: sent once more, each record in a request of its own.
        self._publisher.isolate(alone=bool(outcome.refusals) and not told(outcome.refusals))
        # Fenced is no proof of a successor: a transaction that outlived its timeout says the same. The lock is asked.
        self.machine.unknown()
        self._attempts = 0
        self._fence_again()

    def _keep_lead(self) -> None:
        """Ask the lock before each fencing, or a woken zombie would fence its successor; and once more behind it: one
        that was frozen in between has done so, and sends nothing with the producer that it got."""
        if not self._lock_held():
            raise FencedOff("a successor took the lead")

    def _fence_again(self) -> None:
        self._keep_lead()
        self._side.submit(partial(fence_and_read, self._publisher, patience(self._attempts)))
        self._attempts += 1

    def _on_recycled(self, found: Checkpoint | None) -> None:
        flight = self.in_flight
        if flight is None:
            raise RuntimeError("a recycling without a batch")
        step = self.machine.recycled(found, all_acknowledged=flight.all_acknowledged)
        self._keep_lead()
        if step is Step.CONFIRM:
            self._confirmed(flight, 0.0)
        elif self.machine.attempt is None:
            raise RuntimeError("nothing to send again")
        elif causes := told(flight.refusals):
            # It did not commit, and it is known why.
            self._give_up(flight.batch, *self._leftovers.refuse(flight.batch, causes, self._clock()))
        else:
            self._write_parked(flight.batch)
            self._dispatch(InFlight(flight.batch, self.machine.attempt, flight.sent_at, flight.write))

    def _confirmed(self, flight: InFlight, commit_seconds: float) -> None:
        self._checkpoint_at = self._clock()
        if self.stream is not None:
            self.stream.report(self.machine.durable.end_lsn)
        self._on_step("confirmed")
        self._finished(flight, commit_seconds)
        if flight.batch.command is not None and self.desk is not None:
            self.desk.confirmed(flight.batch.command)
            self._leftovers.changed()

    def _finished(self, flight: InFlight, commit_seconds: float) -> None:
        self.in_flight = None
        self._committed_at = self._clock()
        self._telemetry.published(flight.batch, commit_seconds=commit_seconds)
        self._leftovers.passed(flight.batch, self.machine.durable)

    def observe(self, insert_lsn: Lsn) -> None:
        """Tell the metrics where everything stands; called with each pulse, not per batch."""
        self._leftovers.tell()
        stream = self.stream
        durable = self.machine.durable
        oldest = self.ledger.oldest_commit_us
        if self.in_flight is not None and self.in_flight.batch.oldest_commit_us:
            oldest = self.in_flight.batch.oldest_commit_us
        waiting = self.ledger.rows + (0 if self.in_flight is None else len(self.in_flight.batch.records))
        self._telemetry.backlog(
            oldest_commit_us=oldest or None,
            events=waiting,
            wal_bytes=insert_lsn - durable.end_lsn,
        )
        self._telemetry.positions(
            checkpoint=durable.end_lsn,
            confirmed=stream.confirmed if stream is not None else durable.end_lsn,
        )
