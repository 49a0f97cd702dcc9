"""One reign: from the lock to the stream, and the loop in between. `service` decides what comes after it ends."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import cast

from dovetail_relay.admission import Admitted, admitted, survey
from dovetail_relay.assembly import intake_for
from dovetail_relay.books import BUCKET_SECONDS
from dovetail_relay.config import conninfo
from dovetail_relay.decode.oversize import shortened
from dovetail_relay.desk.desk import OperatorDesk
from dovetail_relay.errors import (
    CheckpointLost,
    Halt,
    KafkaUnavailable,
    LeadLost,
    PoisonHeld,
    RelayError,
    StreamEnded,
)
from dovetail_relay.fencing import Fenced, fence_and_read, patience, short_attempts_over
from dovetail_relay.flight import Limits
from dovetail_relay.halted import Halted
from dovetail_relay.heartbeat import PULSE_SECONDS, Heartbeat
from dovetail_relay.housekeeping import bookkeeper_for, housekeeper_for
from dovetail_relay.leftovers import Leftovers
from dovetail_relay.logs import log
from dovetail_relay.machine import Machine
from dovetail_relay.nouns import Batch, Checkpoint, Delivery, RelayRow, lsn_text
from dovetail_relay.pipeline import READ_LIMIT, Pipeline
from dovetail_relay.recovery import Hands, Recovery, ToldToStop
from dovetail_relay.side import SideThread
from dovetail_relay.source.backfill import Bounds, StoredRows, backfill_rows
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.parked import ParkedRows
from dovetail_relay.source.replication import Connector, ReplicationStream, SlotBusy
from dovetail_relay.surroundings import Surroundings
from dovetail_relay.suspicion import Suspicion
from dovetail_relay.telemetry import LogEvent
from dovetail_relay.watch import Watch

# SIGTERM: how long the batch under way may still take. The slot is free well within 5 s.
DRAIN_SECONDS = 3.0
SLOT_BUSY_STEP_SECONDS = 0.1


class Reign:
    """A leader's time. `run` returns when the relay is told to stop, and raises what else ends it."""

    def __init__(self, session: LockSession, given: Surroundings) -> None:
        self._session = session
        self._given = given
        self._settings = given.settings
        self._side: SideThread[object] = SideThread("dovetail-commit")
        self._poll = select.poll()
        self._polled: dict[str, int] = {}
        self._unreadable: CheckpointLost | None = None
        hands = Hands(
            given.settings, session, self._aside, lambda: self._heart.beat(force=True), given.stopping, given.on_step
        )
        self._recovery = Recovery(hands)
        self._halted = Halted(hands, self._recovery, given.publisher)
        self._watch = Watch(session, given.settings.outbox.publication, self._halted)
        self._housekeeper = housekeeper_for(given.settings, given.telemetry)
        self._heart = Heartbeat(session, given, self._watch, self._housekeeper)
        self._backfilled = 0
        self._connector = Connector(conninfo(given.settings, "relay"))

    def run(self) -> None:
        """Lead until told to stop. Shutdown order: batch under way, feedback, stream, producer; the caller ends the
        session, which frees the locks last."""
        try:
            found = self._fence()
            if self._given.stopping():
                return
            at = self._admit(found)
            pipeline = self._heart.pipeline = self._assemble(at.machine(self._given.writer))
            self._backfill(pipeline, at.row)
            if not at.row.started and not self._given.stopping():
                self._session.mark_started()
            self._stream(pipeline)
        except ToldToStop:
            return
        except Halt as halt:
            self._halted.tell(halt)
            raise
        except (LeadLost, StreamEnded):
            self._cover_what_is_out()
            raise
        except RelayError:
            raise
        except Exception:
            # Not in order: the next start is to see that this one ended here.
            self._heart.suspicion = None
            raise
        finally:
            if self._heart.pipeline is not None and self._heart.pipeline.stream is not None:
                self._heart.pipeline.stream.close()
            self._connector.close()
            if self._housekeeper is not None:
                self._housekeeper.stop()
            if self._heart.suspicion is not None:
                # It ends in order: no row has ended the process.
                with contextlib.suppress(RelayError):
                    self._heart.suspicion.acquit()
            # On the side thread, behind what may still be under way there: a client is never closed while it is in use.
            self._side.stop(last=self._given.publisher.close)

    # -- steps 2 to 4 -------------------------------------------------------------------------------------------------

    def _fence(self) -> Checkpoint | None:
        """Fence the predecessor and read the checkpoint; goes on while Kafka is away."""
        attempt = 0
        while not self._given.stopping():
            self._heart.beat(force=True)
            self._side.submit(partial(fence_and_read, self._given.publisher, patience(attempt)))
            attempt += 1
            self._connector.open()  # a login takes as long as the fencing
            result, error = self._await_side()
            if isinstance(error, KafkaUnavailable) or (error is None and result is None):
                if short_attempts_over(attempt):
                    # The short attempts are over: the next waits long, and nobody should have to guess why.
                    self._kafka_lost("Kafka does not answer; nothing streams until it does")
                continue
            if isinstance(error, CheckpointLost):
                # A recovery writes a new one; without one under way admission halts with this.
                self._unreadable = error
                return None
            if error is not None:
                raise error
            if isinstance(result, Fenced):
                return result.found
        return None

    def _await_side(self) -> tuple[object, BaseException | None]:
        while (done := self._side.poll()) is None:
            self._wait(0.25, stream=None)
            self._heart.beat()
            self._given.state.turned()
            if self._given.stopping():
                return None, None
        return done

    def _admit(self, found: Checkpoint | None) -> Admitted:
        """The checks of step 4, asked again where an operator's command has answered a halt."""
        settings, session, publisher = self._settings, self._session, self._given.publisher
        while True:
            # Asked now and not when the connection was made: a standby may have been promoted in between.
            ground = survey(session, settings, self._connector.open(), found)
            try:
                at = admitted(ground, session, publisher, settings.checkpoint_topic, self._unreadable)
            except Halt as halt:
                if self._halted.answered(halt, ground):
                    continue
                raise
            self._given.on_step("admitted")
            self._watch.recorded, self._watch.recovering = at.row.publication_fingerprint, at.row.recovery_command
            self._halted.refuse_idle(at.row.recovery_command)
            return at

    # -- the rooms joined ---------------------------------------------------------------------------------------------

    def _assemble(self, machine: Machine) -> Pipeline:
        settings, given = self._settings, self._given
        newborn = given.newborn()
        self._intake = intake_for(settings, self._session, given.registry, given.telemetry)
        machine.bookkeeper = bookkeeper_for(settings)
        rows = ParkedRows(self._session, settings.relay.name)
        # Also where nothing is committed yet: the first batch of all may have been killed behind its parked rows.
        rows.drop_beyond(machine.durable)
        rows.follow(self._intake.topic_of)
        pipeline = Pipeline(
            intake=self._intake,
            machine=machine,
            publisher=given.publisher,
            side=self._side,
            limits=Limits(
                settings.delivery.batch_rows, settings.delivery.batch_bytes, settings.delivery.linger_ms / 1000
            ),
            telemetry=given.telemetry,
            lock_held=self._heart.lock_held,
            on_step=given.on_step,
            leftovers=Leftovers(self._intake.parking, rows, given.publisher, given.telemetry),
            lazy_checkpoint=settings.delivery.mode is Delivery.AT_LEAST_ONCE,
        )
        desk = self._heart.desk = pipeline.desk = OperatorDesk(
            self._session,
            settings.relay.name,
            self._intake,
            most=settings.delivery.batch_rows,
            most_bytes=settings.delivery.batch_bytes,
            topic_allowed=settings.topic_allowed,
            on_settled=machine.command_settled,
            on_written=machine.rests_on,
            newborn=newborn,
        )
        self._session.listen("dovetail_command")
        desk.begin(machine.durable)
        if newborn:
            self._suspect(pipeline)
        return pipeline

    def _suspect(self, pipeline: Pipeline) -> None:
        """The first reign of this process: have others before it ended where it begins?"""
        batch_rows = self._settings.delivery.batch_rows
        suspicion = self._heart.suspicion = Suspicion(self._session, self._settings.relay.name)
        suspicion.begin(pipeline.machine.durable, rows_ahead=2 * (batch_rows + READ_LIMIT))
        if suspicion.feared is not None:
            self._intake.parking.feared.add(suspicion.feared)
        pipeline.be_careful(suspicion)

    # -- rows that were there before the slot --------------------------------------------------------------------------

    def _backfill(self, pipeline: Pipeline, row: RelayRow) -> None:
        """Publish what was committed before the slot's consistent point: it never streams."""
        next_seq = pipeline.machine.durable.backfill
        if next_seq is None and not pipeline.machine.written:
            self._publish(pipeline, Batch([], row.consistent_point, None))
        if next_seq is not None:
            self._publish_older(pipeline, row, next_seq)
        if row.recovery_horizon is not None and not self._given.stopping():
            self._recovery.finish(row)

    def _publish_older(self, pipeline: Pipeline, row: RelayRow, next_seq: int) -> None:
        if row.recovery_horizon is not None:
            self._given.state.waiting("recovering", "nothing: wait, or follow it with dovetail recover --follow")
            if not self._recovery.read_back(row):
                return
        # The desk may have condemned the very row before which the last reign halted; a queue may have come to its end.
        pipeline.restart()
        while (after := self._backfill_from(pipeline, row, next_seq)) is not None:
            # Not all of it: rows or topics were refused, and are known now.
            next_seq = after
        if self._given.stopping():
            return
        if (bookkeeper := pipeline.machine.bookkeeper) is not None:
            bookkeeper.began_at = self._session.newest_time() // BUCKET_SECONDS
        self._publish(pipeline, Batch([], row.consistent_point, None, backfill=None), write=True)
        log(LogEvent.RECOVERY_FINISHED, "published the rows that were there before the slot", events=self._backfilled)

    def _backfill_from(self, pipeline: Pipeline, row: RelayRow, next_seq: int) -> int | None:
        """Rows from `next_seq` on; None at their end or when told to stop, else where to begin again."""
        assert row.snapshot is not None  # noqa: S101 - a backfill was begun from it
        delivery, suspicion = self._settings.delivery, self._heart.suspicion
        careful = suspicion is not None and suspicion.careful
        bounds = Bounds(
            1 if careful else delivery.batch_rows, delivery.batch_bytes, self._settings.outbox.max_row_bytes
        )
        batches = backfill_rows(conninfo(self._settings, "relay"), row, next_seq, bounds, self._intake.stored_row)
        # The first fetch sorts all that is there: on the side thread, so that the lead is kept meanwhile.
        while (found := self._older(pipeline, lambda: next(batches, None))) is not None:
            if self._given.stopping():
                break
            rows = cast("StoredRows", found)
            given_up = pipeline.given_up
            self._publish(
                pipeline, Batch(rows.records, row.consistent_point, None, backfill=rows.after, parked=rows.parked)
            )
            if self._given.stopping():
                break
            if careful and suspicion is not None:
                pipeline.be_careful(suspicion)
            if pipeline.given_up != given_up or careful != (suspicion is not None and suspicion.careful):
                return pipeline.machine.base.backfill or 0
            self._backfilled += len(rows.records)
            self._recovery.publishing(row, self._backfilled)
        return None

    def _older(self, pipeline: Pipeline, fetch: Callable[[], object]) -> object:
        """The next of the rows from before the slot. A row that halts the relay is written down, as from the stream."""
        try:
            return self._aside(fetch)
        except PoisonHeld as halt:
            if (batch := pipeline.uncovered()) is not None:
                self._publish(pipeline, batch, write=True)
            pipeline.halts(halt)
            raise

    def _aside(self, job: Callable[[], object]) -> object:
        """A job on the side thread, while the lead is kept here; None when told to stop before its end."""
        self._side.submit(job)
        result, error = self._await_side()
        if error is not None:
            raise error
        return result

    def _publish(self, pipeline: Pipeline, batch: Batch, *, write: bool = False) -> None:
        pipeline.send(batch, write=write)
        # Told to stop, it leaves the batch under way to `_drain`: Kafka may be away.
        while pipeline.in_flight is not None and not self._given.stopping():
            self._wait(pipeline.wait_seconds(), stream=None)
            pipeline.turn()
            self._heart.beat()
            self._given.state.turned()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _stream(self, pipeline: Pipeline) -> None:
        given = self._given
        while not given.stopping():
            if pipeline.stream is None and pipeline.in_flight is None:
                self._attach(pipeline)
            if pipeline.stream is None or pipeline.drained or not pipeline.reading:
                self._wait(pipeline.wait_seconds(), stream=pipeline.stream if pipeline.reading else None)
            if pipeline.turn():
                # Here and not only behind a wait: with a backlog nothing is waited for.
                given.state.progress()
            self._heart.beat()
            if pipeline.stream is None:
                given.state.turned()
            elif pipeline.kafka_silent:
                # A relay that holds back its flush position blocks a fast shutdown of the database for ever.
                self._kafka_lost("Kafka is silent; the stream is closed until it answers")
                pipeline.detach()
            elif pipeline.bloated:
                log(LogEvent.STREAM_ENDED, "closed to give back the memory that a large row took")
                pipeline.detach()
        # SIGTERM. Rows read but not sent will stream again.
        pipeline.finish(DRAIN_SECONDS)

    def _kafka_lost(self, message: str) -> None:
        where = self._settings.kafka.bootstrap_servers
        log(LogEvent.KAFKA_LOST, message, bootstrap_servers=where, next="dovetail doctor")
        self._given.telemetry.connected("kafka", connected=False)
        self._given.telemetry.ready(ready=False)
        self._given.state.waiting("kafka unreachable", "dovetail doctor")

    def _attach(self, pipeline: Pipeline) -> None:
        given, outbox = self._given, self._settings.outbox
        start = pipeline.machine.durable.end_lsn
        while True:
            connection = self._connector.take()
            try:
                stream = ReplicationStream(
                    connection,
                    slot=self._settings.relay.slot,
                    publication=outbox.publication,
                    start=start,
                    messages=outbox.messages,
                    largest=outbox.max_row_bytes,
                    shortened=shortened,
                )
                break
            except SlotBusy:
                # The lock is ours, so whoever streams is a zombie.
                ended = self._session.free_slot()
                log(LogEvent.STALE_LEADER_ENDED, "ended a walsender that streamed from our slot", pids=ended)
                self._wait(SLOT_BUSY_STEP_SECONDS, stream=None)
                self._heart.beat()
                if given.stopping():
                    return
            except BaseException:
                connection.close()
                raise
        pipeline.attach(stream)
        self._session.check_stream(start)
        if outbox.messages and not self._session.messages_promised():
            self._session.promise_messages()
        given.on_step("streaming")
        given.on_streaming()
        given.telemetry.connected("kafka", connected=True)
        given.telemetry.ready(ready=True)
        given.state.ready("leader")
        log(LogEvent.STREAM_STARTED, "streaming", slot=self._settings.relay.slot, position=lsn_text(start))

    def _cover_what_is_out(self) -> None:
        """The server is gone. In at_least_once the newest events may have no checkpoint yet, and a promoted server may
        lack them, unseen: it is written now. Kafka takes it from this producer unless somebody else leads already."""
        if self._heart.pipeline is not None and self._settings.delivery.mode is Delivery.AT_LEAST_ONCE:
            self._heart.pipeline.hang_up()
            # The first ends where the batch under way was confirmed and the database should have been told.
            for _ in range(2):
                with suppress(RelayError):
                    self._heart.pipeline.finish(DRAIN_SECONDS)

    # -- waiting and touching -----------------------------------------------------------------------------------------

    def _wait(self, seconds: float, *, stream: ReplicationStream | None) -> None:
        """Sleep until a socket speaks, the side thread is done, a signal comes, or `seconds` are over."""
        watched = {"side": self._side.fileno(), "lock": self._session.fileno(), "wake": self._given.wake_fd}
        if stream is not None:
            watched["stream"] = stream.fileno()
        if watched != self._polled:
            self._poll = select.poll()
            for fd in watched.values():
                self._poll.register(fd, select.POLLIN)
            self._polled = watched
        ready = {fd for fd, _ in self._poll.poll(min(seconds, PULSE_SECONDS) * 1000)}
        if watched["lock"] in ready:
            # Nothing was asked, so this is the server's farewell (57P01 at shutdown) or the end of the connection.
            self._heart.beat(force=True)
        if stream is not None and watched["stream"] in ready:
            self._given.state.progress()
            stream.nap_if_busy()
