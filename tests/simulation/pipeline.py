"""`pipeline.py` and `intake.py` with the sockets left out, around the real Machine and Ledger.

Method names are theirs, and each method reads like its original. Clocks are replaced by chance: whether an idle
checkpoint is due is thrown, so that no interval can hide an order of events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.checks import check
from simulation.database import Begin, Commit, Frame, Rows, Stream
from simulation.publisher import Done, Job, Publisher

from dovetail_relay.errors import KafkaUnavailable
from dovetail_relay.ledger import Ledger
from dovetail_relay.machine import Machine, Step
from dovetail_relay.nouns import Batch, Checkpoint, Lsn
from dovetail_relay.publish.port import Outcome, Result

if TYPE_CHECKING:
    from simulation.world import World


@dataclass(slots=True)
class InFlight:
    batch: Batch
    checkpoint: Checkpoint
    all_acknowledged: bool = False
    write: bool = False


class Pipeline:
    """Everything between a leader's stream and its broker. `turn` does what can be done now."""

    machine: Machine
    publisher: Publisher

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.chance = world.chance
        self.database = world.database
        self.unled_fences = 0
        self.reigns = 0
        self.clear()

    def clear(self) -> None:
        self.sending = True
        self.stream: Stream | None = None
        self.in_flight: InFlight | None = None
        self.side: Job | None = None
        self.ledger = Ledger(Lsn(0), None)

    @property
    def leads(self) -> bool:
        return self.database.leader is self

    def _new_ledger(self) -> Ledger:
        return Ledger(self.machine.base.end_lsn, self.machine.base.part)

    def _lock_held(self) -> bool:
        return self.leads

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
        self.side = self._fencing(self.publisher, self.reigns)

    def _fencing(self, publisher: Publisher, reign: int) -> Job:
        """(found,), or False where it is to be tried again: Kafka away, or a read that was held back."""
        yield
        if self.reigns == reign and not self.leads:
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
        if self.in_flight is None and self.sending:
            self._send_next()
        if self.stream is not None:
            self._report(self.stream)

    @property
    def _reading(self) -> bool:
        limits = self.world
        return self.ledger.rows * 2 < limits.max_rows * 3 and self.ledger.bytes * 2 < limits.max_bytes * 3

    def _settled(self) -> bool:
        if self.in_flight is None and self.machine.pending is not None:
            self._write_pending()
        return self.in_flight is None

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
