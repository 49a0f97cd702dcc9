"""One relay process: `service.py` and `reign.py` with the sockets left out, around the real admit.

`yield` stands wherever the process may be killed or frozen, or another may do something in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from simulation.database import RECORDS
from simulation.pipeline import Pipeline

from dovetail_relay.errors import CheckpointMoved, Fenced, Gap, Halt, LeadLost, Restart, Retry
from dovetail_relay.machine import Machine, admit
from dovetail_relay.nouns import Batch, Checkpoint, Lsn, RelayRow

if TYPE_CHECKING:
    from simulation.world import World


class Relay(Pipeline):
    """`step` goes on to the next place where something may come between."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, world)
        self.wakes_at = 0
        self._processes = 0
        self.start()

    def start(self) -> None:
        """A new process. The old one is gone without a word: its sessions end, its producer stays where it was."""
        self._new_process()
        self._life = self._live()

    def step(self) -> None:
        next(self._life)

    def _new_process(self) -> None:
        self._processes += 1
        self.writer = f"{self.name}{self._processes}"
        self.stopping = False
        self.clear()

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
                # It looks again after a while: a cause that has gone needs no operator.
                self.world.halted(halt)
            self._leave()
            yield

    def _leave(self) -> None:
        if self.stream is not None:
            self.stream.close()
        if self.side is not None:
            # The side thread ends what it has begun, whatever became of the reign.
            self.world.ghosts.append(self.side)
        self.clear()
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
        self.publisher = self.world.publisher()
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
        if not self.database.row.started and not self.stopping:
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
            if self.stopping:
                return
            next_seq = after
        yield from self._publish(Batch([], row.consistent_point, None, backfill=None))

    def _publish(self, batch: Batch) -> Iterator[None]:
        self.send(batch)
        while self.in_flight is not None and not self.stopping:
            yield
            self.turn()
            self._touch_now_and_then()

    def _stream(self) -> Iterator[None]:
        while not self.stopping:
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
        yield from self._drain()

    def _drain(self) -> Iterator[None]:
        """Told to stop: the batch under way may end within the time that there is."""
        self.sending = False
        for _ in range(8):
            if self._settled():
                self.world.seen["stopped with nothing under way"] += 1
                return
            yield
            self.turn()

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

    def _touch(self) -> None:
        if not self.leads:
            raise LeadLost("the lock session is gone")

    def _touch_now_and_then(self) -> None:
        if self.chance() < 0.1:
            self._touch()
