"""One relay process: the glue of `reign.py` and `pipeline.py` around the real Machine, Ledger, verdict and admit.

Method names are theirs, and each method reads like its original with the sockets left out. `yield` stands wherever the
process may be killed or frozen. Clocks are replaced by chance: whether an idle checkpoint is due is thrown, so that no
interval can hide an order of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simulation.checks import check
from simulation.database import RECORDS, Begin, Commit, Frame, Rows, Stream
from simulation.publisher import Done, Job, Publisher

from dovetail_relay.errors import CheckpointMoved, Fenced, Gap, Halt, KafkaUnavailable, LeadLost, Restart, Retry
from dovetail_relay.ledger import Ledger
from dovetail_relay.machine import Machine, Step, admit
from dovetail_relay.nouns import Batch, Checkpoint, Lsn, RelayRow
from dovetail_relay.publish.port import Outcome, Result

if TYPE_CHECKING:
    from simulation.world import World


@dataclass(slots=True)
class InFlight:
    batch: Batch
    checkpoint: Checkpoint
    all_acknowledged: bool = False
    write: bool = False


class Relay:
    """`step` goes on to the next place where something may come between."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.chance = world.chance
        self.database = world.database
        self.wakes_at = 0
        self.unled_fences = 0
        self._processes = self._reigns = 0
        self.start()

    def start(self) -> None:
        """A new process. The old one is gone without a word: its sessions end, its producer stays where it was."""
        self._processes += 1
        self.writer = f"{self.name}{self._processes}"
        self._clear()
        self._life = self._live()

    def step(self) -> None:
        next(self._life)

    @property
    def leads(self) -> bool:
        return self.database.leader is self

    def _clear(self) -> None:
        self.stream: Stream | None = None
        self.in_flight: InFlight | None = None
        self.side: Job | None = None

    # -- service.py ---------------------------------------------------------------------------------------------------

    def _live(self) -> Iterator[None]:
        while True:
            try:
                yield from self._run()
            except (Restart, Retry) as ended:
                self._note(ended)
            except Halt as halt:
                # It looks again after a while: a cause that has gone needs no operator.
                self.world.halted(halt)
            if self.stream is not None:
                self.stream.close()
            if self.side is not None:
                # The side thread ends what it has begun, whatever became of the reign.
                self.world.ghosts.append(self.side)
            self._clear()
            if self.leads:
                self.database.leader = None
            yield

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
        self._reigns += 1
        self.publisher: Publisher = self.world.publisher()
        while True:
            self._touch()
            self._fence_and_read()
            while (done := self._poll_side()) is None:
                yield
                self._touch()
            if isinstance(done, tuple):
                break
        yield
        row, durable, first = self._admit(done[0])
        self.machine = Machine(durable, writer=self.writer, timeline=self.database.timeline)
        self.machine.written = not first
        self.ledger = self._new_ledger()
        yield from self._backfill(row)
        if not self.database.row.started:
            self._touch()
            self.database.row = replace(self.database.row, started=True)
        yield from self._stream()

    def _admit(self, found: Checkpoint | None) -> tuple[RelayRow, Checkpoint, bool]:
        self._touch()
        row, facts = self.database.row, self.database.facts()
        admitted = admit(facts, row, found, self.database.history)
        if admitted is not None:
            return row, admitted, False
        first = Checkpoint(
            epoch=row.epoch,
            seq=0,
            writer="",
            system_id=facts.system_id,
            timeline=facts.timeline,
            database=facts.database,
            slot=row.slot,
            end_lsn=row.consistent_point,
            backfill=0 if row.snapshot is not None else None,
        )
        return row, first, True

    def _backfill(self, row: RelayRow) -> Iterator[None]:
        next_seq = self.machine.durable.backfill
        if next_seq is None:
            if not self.machine.written:
                yield from self._publish(Batch([], row.consistent_point, None))
            return
        while next_seq < len(self.database.before_slot):
            after = min(next_seq + 2, len(self.database.before_slot))
            batch = Batch(RECORDS[next_seq:after], row.consistent_point, None, backfill=after)
            yield from self._publish(batch)
            next_seq = after
        yield from self._publish(Batch([], row.consistent_point, None, backfill=None))

    def _publish(self, batch: Batch) -> Iterator[None]:
        self.send(batch)
        while self.in_flight is not None:
            yield
            self.turn()
            self._touch_now_and_then()

    def _stream(self) -> Iterator[None]:
        while True:
            if self.stream is None and self.in_flight is None:
                self._attach()
            yield
            self.turn()
            self._touch_now_and_then()
            if self.in_flight is not None and self.stream is not None and self.world.broker.weather.down:
                # Kafka is silent: `detach`.
                self.stream.close()
                self.stream = None
                self.ledger = self._new_ledger()

    def _attach(self) -> None:
        start = self.machine.durable.end_lsn
        stream = self.database.start_replication(start)
        if stream is None:
            # The lock is ours, so whoever streams is a zombie.
            self._touch()
            self.database.end_stream()
            self.world.seen["zombie's stream ended"] += 1
            return
        self.stream = stream
        self.ledger = self._new_ledger()
        self._look_at_slot(start)
        if self.machine.base.part is not None:
            self.world.seen["stream began inside a transaction"] += 1

    def _look_at_slot(self, start: Lsn) -> None:
        """Now that it is ours nobody can move it: whoever did while it was free is seen here."""
        self._touch()
        confirmed = self.database.confirmed
        if confirmed > start:
            raise Gap(f"the slot is confirmed at {confirmed}, the checkpoint stands at {start}")

    def _new_ledger(self) -> Ledger:
        return Ledger(self.machine.base.end_lsn, self.machine.base.part)

    def _lock_held(self) -> bool:
        return self.leads

    def _touch(self) -> None:
        if not self.leads:
            raise LeadLost("the lock session is gone")

    def _touch_now_and_then(self) -> None:
        if self.chance() < 0.1:
            self._touch()

    # -- side.py, fence_and_read --------------------------------------------------------------------------------------

    def _poll_side(self) -> Done | None:
        side = self.side
        if side is None:
            return None
        try:
            next(side)
        except StopIteration as ended:
            self.side = None
            return ended.value  # type: ignore[no-any-return]
        return None

    def _fence_and_read(self) -> None:
        self.side = self._fencing(self.publisher, self._reigns)

    def _fencing(self, publisher: Publisher, reign: int) -> Job:
        """(found,), or False where it is to be tried again: Kafka away, or a read that was held back."""
        yield
        if self._reigns == reign and not self.leads:
            # Frozen between the look at the lock and the call, he cannot know; a second time he must.
            self.unled_fences += 1
            check(self.unled_fences < 2, "a relay that had lost the lock fenced again")
            self.world.seen["zombie fenced its successor"] += 1
        if not publisher.fence():
            return False
        yield
        try:
            return (publisher.read(),)
        except KafkaUnavailable:
            return False

    # -- pipeline.py --------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        if self.stream is not None and self._reading:
            self._take(self.stream.read())
        done = self._poll_side()
        if done is not None:
            self._settle(done)
        if self.in_flight is None:
            self._send_next()
        if self.stream is not None:
            self._report(self.stream)

    @property
    def _reading(self) -> bool:
        limits = self.world
        return self.ledger.rows < 2 * limits.max_rows and self.ledger.bytes < 2 * limits.max_bytes

    def _report(self, stream: Stream) -> None:
        self.feedback(stream, self.machine.durable.end_lsn)

    def feedback(self, stream: Stream, lsn: Lsn) -> None:
        end = self.world.broker.durable_end
        check(lsn <= end, f"flush {lsn} reported beyond the durable checkpoint {end}")
        stream.report(lsn)

    def _take(self, frames: list[Frame]) -> None:
        ledger = self.ledger
        for frame in frames:
            if isinstance(frame, Rows):
                self._take_rows(frame)
            elif isinstance(frame, Begin):
                ledger.begin(frame.final_lsn, 1)
                if ledger.skipping:
                    self.world.seen["transaction published before, dropped"] += 1
            elif isinstance(frame, Commit):
                ledger.commit(frame.end_lsn)
            else:
                ledger.keepalive(frame.wal_end)

    def _take_rows(self, run: Rows) -> None:
        ledger = self.ledger
        if ledger.skipping:
            return
        skip_rows = ledger.skip_rows
        records = [
            record
            for index, (_, record) in enumerate(run.rows, ledger.next_index)
            if record is not None and index >= skip_rows
        ]
        ledger.add(records, rows=len(run.rows), size=self.world.row_bytes * len(run.rows))

    def _send_next(self) -> None:
        ledger, world = self.ledger, self.world
        if ledger.cut_ready:
            if ledger.rows >= world.max_rows or self.chance() < 0.6:
                self.send(ledger.seal(world.max_rows, world.max_bytes))
        elif ledger.in_transaction:
            self.send(ledger.seal(world.max_rows, world.max_bytes))
        elif self.machine.pending is not None and self.chance() < 0.3:
            self._write_pending()
        elif self.chance() < 0.2:
            batch = ledger.seal_idle()
            if batch is not None:
                self.world.seen["idle checkpoint"] += 1
                self.send(batch)

    def _write_pending(self) -> None:
        pending = self.machine.pending
        if pending is not None:
            self.send(Batch([], pending.end_lsn, pending.part, pending.backfill), write=True)

    def send(self, batch: Batch | None, *, write: bool = False) -> None:
        if batch is None:
            return
        if batch.part is not None:
            self.world.seen["transaction cut into chunks"] += 1
        checkpoint = self.machine.propose(batch, horizon=0)
        self._dispatch(InFlight(batch, checkpoint, write=write))

    def _dispatch(self, flight: InFlight) -> None:
        self.in_flight = flight
        flight.write = self.machine.must_write(lazy=self.world.lazy, due=flight.write or self.chance() < 0.3)
        outcome = self.publisher.send(flight.batch.records)
        if outcome is not None:
            self._recycle(outcome)
            return
        self.side = self.publisher.settle(flight.checkpoint, write=flight.write)

    def _settle(self, done: Done) -> None:
        if isinstance(done, Outcome):
            self._on_outcome(done)
        elif isinstance(done, tuple):
            self._on_recycled(done[0])
        else:
            self._fence_again()

    def _on_outcome(self, outcome: Outcome) -> None:
        flight = self.in_flight
        assert flight is not None
        if outcome.result is Result.COMMITTED:
            self.machine.committed()
            self._confirmed()
        elif outcome.result is Result.DELIVERED:
            self.machine.delivered()
            self.in_flight = None
        else:
            flight.all_acknowledged = outcome.all_acknowledged
            self._recycle(outcome)

    def _recycle(self, outcome: Outcome) -> None:
        if outcome.result is Result.FENCED:
            held = self._lock_held()
            self.machine.fenced(lock_held=held)
            self.world.seen["fenced with the lock held"] += held
        else:
            self.machine.unknown()
        self._fence_again()

    def _fence_again(self) -> None:
        if not self._lock_held():
            self.machine.fenced(lock_held=False)
        self._fence_and_read()

    def _on_recycled(self, found: Checkpoint | None) -> None:
        flight, before = self.in_flight, self.machine.durable
        assert flight is not None
        step = self.machine.recycled(found, all_acknowledged=flight.all_acknowledged)
        if step is Step.CONFIRM:
            self.world.seen["verdict COMMITTED"] += 1
            self._confirmed()
            return
        torn = self.machine.durable is not before
        self.world.seen["verdict TORN" if torn else "verdict NOT_COMMITTED"] += 1
        assert self.machine.attempt is not None
        self._dispatch(InFlight(flight.batch, self.machine.attempt, write=flight.write))

    def _confirmed(self) -> None:
        durable = self.machine.durable
        check(
            durable.position() in self.world.broker.positions, f"took for committed what is not: {durable.position()}"
        )
        self.in_flight = None
