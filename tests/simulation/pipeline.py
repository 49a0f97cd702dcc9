"""The relay's own Pipeline, with what lies around it in the simulation: stream, side thread, intake, and a nervous eye.

Nothing is decided here. What is overridden only looks on: it counts rare paths, and checks a promise where it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.checks import check
from simulation.database import Begin, Commit, Frame, Rows, Stream
from simulation.publisher import Job
from simulation.rows import ROWS, SILENT

from dovetail_relay import pipeline
from dovetail_relay.errors import PoisonHeld, StuckMessage
from dovetail_relay.fencing import fence_and_read
from dovetail_relay.flight import InFlight
from dovetail_relay.intake import Intake
from dovetail_relay.nouns import (
    LSN_ZERO,
    Batch,
    Checkpoint,
    Lsn,
    OutboxRow,
    Parked,
    ParkedState,
    Place,
    Record,
    text_of,
)
from dovetail_relay.parking import CRASH
from dovetail_relay.publish.port import Outcome
from dovetail_relay.route.headers import position_prefix
from dovetail_relay.suspicion import Suspicion
from dovetail_schemas.headers import POSITION

if TYPE_CHECKING:
    from simulation.relay import Relay
    from simulation.world import World


class Ear:
    """Telemetry that nobody listens to."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return _silence


def _silence(*_args: object, **_named: object) -> None:
    pass


EAR: Any = Ear()
_NO_HEADER = ("", None)


class Wire:
    """The stream as the pipeline knows it. The flush position is looked at where it leaves."""

    confirmed = LSN_ZERO
    drained = True

    def __init__(self, stream: Stream, world: World) -> None:
        self._stream = stream
        self._world = world

    @property
    def received(self) -> Lsn:
        return self._stream.received

    def read(self, limit: int, most_bytes: int) -> list[Frame]:
        del most_bytes
        return self._stream.read(limit)

    def report(self, lsn: Lsn) -> None:
        end = self._world.broker.durable_end
        check(lsn <= end, f"flush {lsn} reported beyond the durable checkpoint {end}")
        self._stream.report(lsn)

    def heartbeat(self) -> None:
        pass

    def close(self) -> None:
        self._stream.close()


class Side:
    """The second thread: a job goes on by one step each time that somebody looks whether it has ended."""

    def __init__(self) -> None:
        self.job: Job | None = None

    def submit(self, job: partial[Any]) -> None:
        check(self.job is None, "two jobs on the side thread")
        self.job = job.args[0].fencing() if job.func is fence_and_read else job()

    def poll(self) -> tuple[object, BaseException | None] | None:
        job = self.job
        if job is None:
            return None
        try:
            next(job)
        except StopIteration as ended:
            self.job = None
            return ended.value, None
        except Exception as error:
            self.job = None
            return None, error
        return None


class Target:
    topic = "orders"


class Mapper:
    """Which rows can go out just now."""

    def __init__(self, world: World) -> None:
        self._world = world

    def target(self, aggregatetype: str | bytes) -> Target:
        if text_of(aggregatetype) in self._world.unrouted:
            raise StuckMessage("no route", event_id="", reason="route")
        return Target()

    def record(self, row: OutboxRow, prefix: bytes, index: int) -> Record:
        world = self._world
        if world.unrouted:
            self.target(row[1])
        if world.poison.in_hand:
            world.poison.touch(int(row[4]))
        if world.baffling and int(row[4]) in world.baffling:
            raise ZeroDivisionError
        if world.unfit and int(row[4]) in world.unfit:
            raise StuckMessage("does not fit its schema", event_id="", topic="orders", reason="encode")
        return Record(
            "orders", row[4], row[2], [_NO_HEADER, _NO_HEADER, _NO_HEADER, (POSITION, prefix + b"%d" % index)]
        )


class SimulatedIntake(Intake):
    """The relay's own judgement on each row; what is left out is the decoding."""

    def __init__(self, relay: Relay, parking: Any) -> None:
        self.relay, world = relay, relay.world
        super().__init__(
            tables=list, columns={}, mapper=Mapper(world), learn=lambda _: False, parking=parking,  # type: ignore[arg-type]
            telemetry=EAR, max_row_bytes=1 << 20,
        )  # fmt: skip
        self._world = world

    def take(self, frames: list[Frame]) -> None:  # type: ignore[override]
        ledger, world = self.ledger, self._world
        for frame in frames:
            if isinstance(frame, Rows):
                self._take_run(frame.rows)
            elif isinstance(frame, Begin):
                if ledger.begin(frame.final_lsn, 1):
                    self._prefix = position_prefix(self._epoch, frame.final_lsn)
                else:
                    world.seen["transaction published before, dropped"] += 1
            elif isinstance(frame, Commit):
                ledger.commit(frame.end_lsn)
                self.behind_us = 0 if world.chance() < 0.6 else pipeline.BACKLOG_US + 1
            else:
                ledger.keepalive(frame.wal_end)

    def _take_run(self, rows: list[int]) -> None:
        ledger = self.ledger
        if ledger.skipping:
            return
        records: list[Record] = []
        parked: list[tuple[int, Parked]] = []
        skip_rows, judged = ledger.skip_rows, self.parking.busy or self.before_each is not None
        for index, n in enumerate(rows, ledger.next_index):
            if index < skip_rows or n % SILENT == SILENT - 1:
                continue
            row = ROWS[n]
            if not judged:
                try:
                    records.append(self._mapper.record(row, self._prefix, index))  # type: ignore[arg-type]
                    continue
                except Exception:
                    judged = True
            self._sort(self.judge(n, Place(ledger.commit_lsn, index)), records, parked)
        ledger.add(records, rows=len(rows), size=self._world.row_bytes * len(rows), parked=parked)

    def judge(self, n: int, place: Place) -> tuple[Record | None, Parked | None]:
        noted = self.relay.noted
        again = self.before_each is not None and noted is not None and noted.place == place
        self._world.seen["row noted before, and taken once more"] += again
        try:
            record, parked = self._taken(lambda _: ROWS[n], b"", place)  # type: ignore[arg-type,return-value]
        except PoisonHeld as halt:
            self._look_at_blame(n, halt.parked)
            raise
        if parked is not None:
            self._world.seen[f"row {parked.state}, {parked.reason}"] += 1
            self._look_at_blame(n, parked)
        return record, parked

    def _look_at_blame(self, n: int, parked: Parked | None) -> None:
        if parked is not None and parked.reason == CRASH:
            self._world.poison.blamed(n, parked.place)

    def record_of(self, row: OutboxRow, place: Place, epoch: int | None) -> Record:
        poison = self._world.poison
        poison.at_desk = True
        try:
            return super().record_of(row, place, epoch)
        finally:
            poison.at_desk = False

    def stored(self, n: int) -> tuple[Record | None, Parked | None]:
        """A row that was there before the slot."""
        self._prefix = position_prefix(self._epoch, LSN_ZERO)
        return self.judge(n, Place(LSN_ZERO, n))

    def let_go(self, hold: tuple[str, bytes]) -> None:
        waits = any(row.hold == hold and row.state is ParkedState.PARKED for _, row in self.ledger._parked)
        self._world.seen["release raced the stream of its key"] += waits
        super().let_go(hold)


class Pipeline(pipeline.Pipeline):
    """Looks on."""

    world: World
    relay: Relay
    machine: Any

    def send(self, batch: Batch | None, *, write: bool = False) -> None:
        if batch is not None:
            seen = self.world.seen
            seen["transaction cut into chunks"] += batch.part is not None
            seen["part of a transaction with parked rows"] += batch.part is not None and bool(batch.parked)
            seen["idle checkpoint"] += not (batch.transactions or batch.records or batch.parked or write)
            seen["step of a command"] += batch.command is not None
        super().send(batch, write=write)

    def _write_parked(self, batch: Batch) -> None:
        self.world.seen["parked rows written again"] += bool(batch.parked) and self.machine.attempt is not None
        super()._write_parked(batch)

    def _give_up(self, batch: Batch, places: list[Place], topics: dict[str, str]) -> None:
        seen = self.world.seen
        seen["batch given up: a record refused"] += bool(places)
        seen["batch given up: a topic refused"] += bool(topics)
        seen["refusal inside a part of a large transaction"] += batch.part is not None
        seen["refusal in a step of a command"] += batch.command is not None
        super()._give_up(batch, places, topics)

    def _dispatch(self, flight: InFlight) -> None:
        super()._dispatch(flight)
        if self.relay.noted is not None and flight.batch.command is None:
            self.relay.noted.handed_over = True

    def be_careful(self, suspicion: Suspicion) -> None:
        was = self._suspicion is not None
        super().be_careful(suspicion)
        self.world.seen["search begun, or gone on with"] += not was and self._suspicion is not None

    def _recycle(self, flight: InFlight, outcome: Outcome) -> None:
        if outcome.reason == "fenced":
            self.world.seen["fenced with the lock held"] += self._lock_held()
        super()._recycle(flight, outcome)

    def _on_recycled(self, found: Checkpoint | None) -> None:
        flight, machine, seen = self.in_flight, self.machine, self.world.seen
        assert flight is not None
        tried = machine.attempt
        torn = found is not None and tried.position() == found.position() and not flight.all_acknowledged
        if torn:
            check(self.world.torn, "a checkpoint was committed before its events were acknowledged")
            seen["verdict TORN"] += 1
            seen["TORN with parked rows"] += bool(flight.batch.parked)
            seen["TORN with a refusal"] += bool(flight.refusals)
            seen["TORN step of a command"] += flight.batch.command is not None
            self.world.broker.may_go_back = True
        super()._on_recycled(found)
        if not torn:
            committed = machine.durable is tried
            seen["verdict COMMITTED" if committed else "verdict NOT_COMMITTED"] += 1

    def _confirmed(self, flight: InFlight, commit_seconds: float) -> None:
        durable = self.machine.durable
        known = durable.position() in self.world.broker.positions
        check(known, f"took for committed what is not: {durable.position()}")
        if flight.batch.command is not None:
            self.world.poison.step_done(flight.batch.command.id)
        super()._confirmed(flight, commit_seconds)
