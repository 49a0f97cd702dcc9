"""One relay process: `service.py`, `reign.py`, `halted.py` and `recovery.py` with the sockets left out.

Between them run the relay's own rooms: admit, Machine, Ledger, Pipeline, Parking, Leftovers, the operators' desk.
`yield` stands wherever the process may be killed or frozen, or another may do something in between; within a step it
may be killed at each statement to the database.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from simulation.checks import check
from simulation.database import MOST_FRAMES, MOST_ROWS
from simulation.halted import Halted, hands_of
from simulation.pipeline import EAR, Pipeline, Side, SimulatedIntake, Wire
from simulation.session import Killed, Session

from dovetail_relay.admission import Admitted, admitted
from dovetail_relay.desk.desk import OperatorDesk
from dovetail_relay.errors import (
    CheckpointMoved,
    Fenced,
    Gap,
    Halt,
    KafkaUnavailable,
    LeadLost,
    PoisonHeld,
    Restart,
    Retry,
)
from dovetail_relay.fencing import Fenced as Found
from dovetail_relay.fencing import fence_and_read
from dovetail_relay.flight import Limits
from dovetail_relay.leftovers import Leftovers
from dovetail_relay.machine import Machine
from dovetail_relay.nouns import Batch, Checkpoint, Lsn, Parked, Record, RelayRow
from dovetail_relay.parking import Parking
from dovetail_relay.recovery import Ground
from dovetail_relay.source.parked import ParkedRows
from dovetail_relay.suspicion import Suspicion

if TYPE_CHECKING:
    from simulation.poison import InHand
    from simulation.publisher import Job
    from simulation.world import World

Judged = tuple[Record | None, Parked | None]


class Ghost(NamedTuple):
    """What a reign that is over has left on its side thread; and whose process that is."""

    job: Job
    relay: Relay
    writer: str


class Relay:
    """`step` goes on to the next place where something may come between."""

    session: Any
    publisher: Any
    pipeline: Pipeline | None = None
    side: Any

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.chance = world.chance
        self.database = world.database
        self.wakes_at = 0
        self.unled_fences = 0
        self.reigns = 0
        self._processes = 0
        self._clear()
        self.start()

    def start(self) -> None:
        """A new process. The old one is gone without a word: its sessions end, its producer stays where it was."""
        self._new_process()
        self._life = self._live()

    def step(self) -> None:
        self.world.time_goes_by()
        try:
            next(self._life)
        except Killed as killed:
            self.kill(killed)

    def kill(self, by: Killed | None = None) -> None:
        world, pipeline = self.world, self.pipeline
        world.poison.ended(self, by)
        if self.leads:
            world.note_death(self)
            self.database.leader = None
            if pipeline is not None and pipeline.stream is not None:
                pipeline.stream.close()
        self.start()
        world.seen["relay killed"] += 1

    @property
    def leads(self) -> bool:
        return self.database.leader is self

    def _new_process(self) -> None:
        self._processes += 1
        self.writer = f"{self.name}{self._processes}"
        self.stopping = False
        self.newborn = True
        self._clear()

    def _clear(self) -> None:
        self.pipeline = None
        self.side = Side()
        # The search for poison, in the first reign of a process; and the row that it has noted.
        self.suspicion: Suspicion | None = None
        self.noted: InHand | None = None
        self._horizon: tuple[int, Lsn] | None = None
        self.halted: Halted | None = None

    # -- service.py ---------------------------------------------------------------------------------------------------

    def _live(self) -> Iterator[None]:
        while True:
            try:
                yield from self._run()
                self._leave()
                self._new_process()
                yield
                continue
            except (Restart, Retry) as ended:
                self._note(ended)
            except Halt as halt:
                if self.halted is not None:
                    self.halted.tell(halt)
                # It looks again after a while: a cause that has gone needs no operator.
                self.world.halted(halt)
            self._leave()
            yield

    def _leave(self) -> None:
        pipeline = self.pipeline
        if pipeline is not None and pipeline.stream is not None:
            pipeline.stream.close()
        if self.side.job is not None:
            # The side thread ends what it has begun, whatever became of the reign.
            self.world.ghosts.append(Ghost(self.side.job, self, self.writer))
        if self.suspicion is not None:
            # It ends in order, unless the lock is gone: then nobody hears of it.
            with suppress(LeadLost):
                self.suspicion.acquit()
                kept = self.leads and self.database.tables.notes["starts"]
                check(not kept, "a process ended in order, and counts as one that did not")
            self.world.poison.ended(self)
        self._clear()
        if self.leads:
            self.database.leader = None

    def _note(self, ended: Exception) -> None:
        if isinstance(ended, Fenced):
            self.world.seen["zombie refused: the lock was gone"] += 1
        elif isinstance(ended, CheckpointMoved):
            self.world.seen["verdict FOREIGN"] += 1

    # -- reign.py -----------------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[None]:
        while self.database.leader is not None:
            yield
        self.database.leader = self
        self.unled_fences = 0
        self.reigns += 1
        self.publisher = self.world.publisher(self)
        self.session = Session(self, self.world)
        if self.world.commands:
            self.halted = Halted(self, hands_of(self))
        while True:
            self._touch()
            self.side.submit(partial(fence_and_read, self.publisher))
            while (done := self.side.poll()) is None:
                yield
                self._touch()
            result, error = done
            if isinstance(result, Found):
                break
            if error is not None and not isinstance(error, KafkaUnavailable):
                raise error
        yield
        at = self._admit(result.found)
        pipeline = self._assemble(at.machine(self.writer))
        yield from self._backfill(pipeline, at.row)
        if not self.database.row.started and not self.stopping:
            self._touch()
            self.database.row = replace(self.database.row, started=True)
        yield from self._stream(pipeline)

    def _admit(self, found: Checkpoint | None) -> Admitted:
        database = self.database
        while True:
            self._touch()
            ground = Ground(database.facts(), database.row, found, database.history)
            try:
                at = self._admitted(ground)
            except Halt as halt:
                if self.halted is not None and self.halted.answered(halt, ground):
                    continue
                raise
            if self.halted is not None:
                watch, row = self.halted.watch, at.row
                watch.recorded, watch.recovering = row.publication_fingerprint, row.recovery_command
                self.halted.refuse_idle(row.recovery_command)
            return at

    def _admitted(self, ground: Ground) -> Admitted:
        return admitted(ground, self.session, self.publisher, "checkpoints", None)

    def _assemble(self, machine: Machine) -> Pipeline:
        world, session = self.world, self.session
        intake = SimulatedIntake(self, Parking(lambda _: world.policy))
        rows = ParkedRows(session, "sim")
        rows.drop_beyond(machine.durable)
        rows.follow(intake.topic_of)
        pipeline = Pipeline.__new__(Pipeline)
        pipeline.world, pipeline.relay = world, self
        self.pipeline = pipeline
        pipeline.__init__(  # type: ignore[misc]
            intake=intake, machine=machine, publisher=self.publisher, side=self.side,
            limits=Limits(world.max_rows, world.max_bytes, 0.005), telemetry=EAR, lock_held=self._lock_held,
            on_step=lambda _: None, leftovers=Leftovers(intake.parking, rows, self.publisher, EAR),
            lazy_checkpoint=world.lazy, clock=world.clock,
        )  # fmt: skip
        self.intake = intake
        self.desk = pipeline.desk = OperatorDesk(
            session, "sim", intake, most=world.max_rows, most_bytes=1 << 20, topic_allowed=lambda _: True,  # type: ignore[arg-type]
            on_settled=machine.command_settled, on_written=machine.rests_on, newborn=self.newborn, clock=world.clock,
        )  # fmt: skip
        if world.commands:
            self.desk.begin(machine.durable)
        if self.newborn:
            self.newborn = False
            self._suspect(pipeline)
        return pipeline

    def _suspect(self, pipeline: Pipeline) -> None:
        suspicion = self.suspicion = Suspicion(self.session, "sim")
        suspicion.begin(pipeline.machine.durable, rows_ahead=2 * (self.world.max_rows + MOST_FRAMES * MOST_ROWS))
        if suspicion.feared is not None:
            self.intake.parking.feared.add(suspicion.feared)
        pipeline.be_careful(suspicion)

    def _lock_held(self) -> bool:
        return self.leads

    def _backfill(self, pipeline: Pipeline, row: RelayRow) -> Iterator[None]:
        next_seq = pipeline.machine.durable.backfill
        if next_seq is None and not pipeline.machine.written:
            yield from self._publish(pipeline, Batch([], row.consistent_point, None))
        if next_seq is not None:
            yield from self._publish_older(pipeline, row, next_seq)
        if row.recovery_horizon is not None and not self.stopping and self.halted is not None:
            self.halted.recovery.finish(row)

    def _publish_older(self, pipeline: Pipeline, row: RelayRow, next_seq: int) -> Iterator[None]:
        if row.recovery_horizon is not None and self.halted is not None and not self.halted.recovery.read_back(row):
            return
        pipeline.restart()
        while True:
            given_up, careful = pipeline.given_up, self._careful
            # One snapshot of the table for the whole of it.
            rows = self.database.unpublished(row, self.database.tables.seen, next_seq)
            while rows and pipeline.given_up == given_up and self._careful is careful:
                most = 1 if careful else 2
                some, rows = rows[:most], rows[most:]
                judged = yield from self._older(pipeline, some)
                records = [record for record, _ in judged if record is not None]
                parked = [waits for _, waits in judged if waits is not None]
                batch = Batch(records, row.consistent_point, None, backfill=some[-1] + 1, parked=parked)
                self.world.seen["row missing, published by a recovery"] += row.recovery_horizon is not None
                yield from self._publish(pipeline, batch)
                if self.stopping:
                    return
                if careful and self.suspicion is not None:
                    pipeline.be_careful(self.suspicion)
            if pipeline.given_up == given_up and not rows:
                break
            next_seq = pipeline.machine.base.backfill or 0
        yield from self._publish(pipeline, Batch([], row.consistent_point, None, backfill=None), write=True)

    @property
    def _careful(self) -> bool:
        return self.suspicion is not None and self.suspicion.careful

    def _older(self, pipeline: Pipeline, rows: list[int]) -> Generator[None, None, list[Judged]]:
        try:
            return [self.intake.stored(n) for n in rows]
        except PoisonHeld as halt:
            if (batch := pipeline.uncovered()) is not None:
                yield from self._publish(pipeline, batch, write=True)
            pipeline.halts(halt)
            raise

    def _publish(self, pipeline: Pipeline, batch: Batch, *, write: bool = False) -> Iterator[None]:
        pipeline.send(batch, write=write)
        while pipeline.in_flight is not None and not self.stopping:
            yield
            pipeline.turn()
            self._touch_now_and_then()

    def _stream(self, pipeline: Pipeline) -> Iterator[None]:
        while not self.stopping:
            if pipeline.stream is None and pipeline.in_flight is None:
                self._attach(pipeline)
            yield
            pipeline.turn()
            self._touch_now_and_then()
            if pipeline.stream is not None and pipeline.kafka_silent:
                pipeline.detach()
        yield from self._drain(pipeline)

    def _drain(self, pipeline: Pipeline) -> Iterator[None]:
        """Told to stop: the batch under way may end within the time that there is."""
        pipeline._stopping = True
        for _ in range(8):
            if pipeline.in_flight is None:
                pipeline.send(pipeline.uncovered(), write=True)
            if pipeline.in_flight is None:
                self.world.seen["stopped with nothing under way"] += 1
                return
            yield
            pipeline.turn()

    def _attach(self, pipeline: Pipeline) -> None:
        start = pipeline.machine.durable.end_lsn
        stream = self.database.start_replication(start)
        if stream is None:
            # The lock is ours, so whoever streams is a zombie.
            self._touch()
            self.database.end_stream()
            self.world.seen["zombie's stream ended"] += 1
            return
        pipeline.attach(Wire(stream, self.world))  # type: ignore[arg-type]
        self._look_at_slot(start)
        if pipeline.machine.base.part is not None:
            self.world.seen["stream began inside a transaction"] += 1

    def _look_at_slot(self, start: Lsn) -> None:
        """Now that it is ours nobody can move it: whoever did while it was free is seen here."""
        self._touch()
        confirmed = self.database.confirmed
        if confirmed > start:
            raise Gap(f"the slot is confirmed at {confirmed}, the checkpoint stands at {start}")

    def _touch(self) -> None:
        if not self.leads:
            raise LeadLost("the lock session is gone")

    def _touch_now_and_then(self) -> None:
        if self.chance() < 0.3:
            self._touch()
            self._pulse()

    def _pulse(self) -> None:
        pipeline, database = self.pipeline, self.database
        if pipeline is None:
            return
        if self.halted is not None:
            self.halted.watch.look(self.world.clock(), pipeline.machine)
            self.desk.look()
        durable = pipeline.machine.durable
        if self.suspicion is not None:
            self.suspicion.look(durable)
        if self._horizon is not None and self._horizon[1] <= durable.end_lsn and durable.backfill is None:
            pipeline.horizon = self._horizon[0]
            self._horizon = None
        if self._horizon is None:
            self._horizon = (database.xmin(), database.insert_lsn)

    # -- fencing.py ---------------------------------------------------------------------------------------------------

    def on_fencing(self, reign: int) -> None:
        """The side thread is about to fence."""
        if self.reigns == reign and not self.leads:
            # Frozen between the look at the lock and the call, he cannot know; a second time he must.
            self.unled_fences += 1
            check(self.unled_fences < 2, "a relay that had lost the lock fenced again")
            self.world.seen["zombie fenced its successor"] += 1
