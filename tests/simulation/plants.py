"""Mistakes to plant: each is one rule of the design turned off. The simulation is worth what it catches of them.

`plant(name, patch)` changes the relay's own Machine, Ledger and functions where the rule lives there, and the mirrored
glue where it lives in the pipeline or the publisher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from simulation.broker import Answer, Refused
from simulation.pipeline import Pipeline, Wire
from simulation.plants_halted import HALTED
from simulation.plants_operations import OPERATIONS
from simulation.plants_poison import POISONED
from simulation.publisher import Publisher
from simulation.relay import Relay

from dovetail_relay import machine
from dovetail_relay.admission import Admitted
from dovetail_relay.errors import Gap
from dovetail_relay.flight import InFlight
from dovetail_relay.intake import Intake
from dovetail_relay.ledger import Ledger
from dovetail_relay.machine import Machine, Step
from dovetail_relay.nouns import Checkpoint, Lsn, Position, Record, RelayRow, Verdict
from dovetail_relay.publish.port import Outcome
from dovetail_relay.recovery import Ground

Patch = pytest.MonkeyPatch


def _start_from_the_slot(patch: Patch) -> None:
    real = Relay._admitted

    def admitted(self: Relay, ground: Ground) -> Admitted:
        at = real(self, ground)
        return at if at.begins else replace(at, base=replace(at.base, end_lsn=self.database.confirmed, part=None))

    patch.setattr(Relay, "_admitted", admitted)


def _unknown_is_committed(patch: Patch) -> None:
    def recycled(self: Machine, _found: Checkpoint | None, *, all_acknowledged: bool) -> Step:
        del all_acknowledged
        self._settle()
        return Step.CONFIRM

    patch.setattr(Machine, "recycled", recycled)


def _keep_producer(patch: Patch) -> None:
    def keep(_self: Publisher, outcome: Outcome) -> Outcome:
        return outcome

    patch.setattr(Publisher, "_unknown", keep)


def _send_again(self: Pipeline) -> None:
    self.machine.unknown()
    assert self.in_flight is not None
    assert self.machine.attempt is not None
    self._dispatch(self.in_flight)


def _resend_without_fencing(patch: Patch) -> None:
    _keep_producer(patch)
    patch.setattr(Pipeline, "_recycle", lambda self, _flight, _outcome: _send_again(self))


def _abort_and_reuse(patch: Patch) -> None:
    real = Pipeline._recycle

    def recycle(self: Pipeline, flight: InFlight, outcome: Outcome) -> None:
        publisher: Any = self._publisher
        producer = None if outcome.refusals else publisher._producer
        try:
            if producer is None:
                raise Refused(fenced=True)
            self.world.broker.abort(producer)
        except Refused:
            real(self, flight, outcome)
        else:
            _send_again(self)

    _keep_producer(patch)
    patch.setattr(Pipeline, "_recycle", recycle)


def _checkpoint_first(patch: Patch) -> None:
    patch.setattr(Publisher, "checkpoint_first", True)


def _slow_commit_is_success(patch: Patch) -> None:
    patch.setattr(Publisher, "trusted", (Answer.QUICK, Answer.SLOW))


def _verdict_trusts_the_commit(patch: Patch) -> None:
    real = machine.verdict

    def verdict(
        had: Checkpoint | None, tried: Checkpoint, found: Checkpoint | None, *, all_acknowledged: bool
    ) -> Verdict:
        del all_acknowledged
        return real(had, tried, found, all_acknowledged=True)

    patch.setattr(machine, "verdict", verdict)


def _verdict_ignores_the_writer(patch: Patch) -> None:
    """Whoever looks at the lock behind the fencing as well never comes to read what another wrote meanwhile."""
    _no_look_at_the_lock_behind_the_fencing(patch)

    def position(self: Checkpoint) -> Position:
        return Position(self.seq, "", self.end_lsn, self.part, self.backfill)

    real = machine.verdict

    def verdict(*args: Any, **named: Any) -> Verdict:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Checkpoint, "position", position)
            return real(*args, **named)

    patch.setattr(machine, "verdict", verdict)


def _confirm_what_was_received(patch: Patch) -> None:
    real = Wire.report
    patch.setattr(Wire, "report", lambda self, _lsn: real(self, self.received))


def _keepalive_inside_a_transaction(patch: Patch) -> None:
    def keepalive(self: Ledger, wal_end: Lsn) -> None:
        self.keepalive_lsn = max(self.keepalive_lsn, wal_end)

    patch.setattr(Ledger, "keepalive", keepalive)


def _idle_inside_a_transaction(patch: Patch) -> None:
    def idle_lsn(self: Ledger) -> Lsn | None:
        waits = self._records or self.cut_ready
        return self.keepalive_lsn if not waits and self.keepalive_lsn > self._end_lsn else None

    patch.setattr(Ledger, "idle_lsn", idle_lsn)

    def send_next(self: Pipeline) -> None:
        if not self.ledger.cut_ready and self.world.chance() < 0.2:
            self.send(self.ledger.seal_idle())
        else:
            real(self)

    real = Pipeline._send_next
    patch.setattr(Pipeline, "_send_next", send_next)


def _part_forgotten(patch: Patch) -> None:
    real = Intake.restart
    patch.setattr(Intake, "restart", lambda self, base: real(self, replace(base, part=None)))


def _skip_by_one(shift: int) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        real = Ledger.begin

        def begin(self: Ledger, final_lsn: Lsn, commit_us: int) -> bool:
            real(self, final_lsn, commit_us)
            self.skipping = final_lsn < self._end_lsn + shift
            return not self.skipping

        patch.setattr(Ledger, "begin", begin)

    return plant


def _skip_nothing(patch: Patch) -> None:
    _skip_by_one(-1000)(patch)


def _part_index_off_by_one(patch: Patch) -> None:
    real = Ledger.begin

    def begin(self: Ledger, final_lsn: Lsn, commit_us: int) -> bool:
        streams = real(self, final_lsn, commit_us)
        self.skip_rows = max(0, self.skip_rows - 1)
        return streams

    patch.setattr(Ledger, "begin", begin)


def _passed_over_rows_weigh(patch: Patch) -> None:
    real = Ledger.add

    def add(self: Ledger, records: list[Record], *, rows: int, size: int, parked: Any = ()) -> None:
        before = self.bytes
        real(self, records, rows=rows, size=size, parked=parked)
        self.bytes = before + size

    patch.setattr(Ledger, "add", add)


def _no_look_at_the_lock(patch: Patch) -> None:
    patch.setattr(Relay, "_lock_held", lambda _self: True)


def _no_look_at_the_lock_behind_the_fencing(patch: Patch) -> None:
    real, look = Pipeline._on_recycled, Pipeline._keep_lead

    def on_recycled(self: Pipeline, found: Checkpoint | None) -> None:
        looks: list[bool] = []

        def keep_lead(self: Pipeline) -> None:
            if looks:
                look(self)
            looks.append(True)

        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Pipeline, "_keep_lead", keep_lead)
            real(self, found)

    patch.setattr(Pipeline, "_on_recycled", on_recycled)


def _no_look_at_the_slot(patch: Patch) -> None:
    patch.setattr(Relay, "_look_at_slot", lambda _self, _start: None)


def _gap_passes(patch: Patch) -> None:
    real = machine.admit

    def admit(facts: Any, row: RelayRow, found: Checkpoint | None, history: Any) -> Checkpoint | None:
        try:
            return real(facts, row, found, history)
        except Gap:
            return found

    patch.setattr("dovetail_relay.admission.admit", admit)
    _no_look_at_the_slot(patch)


def _another_history_passes(patch: Patch) -> None:
    patch.setattr(machine, "check_timeline", lambda _facts, _found, _history: None)


def _first_checkpoint_later(patch: Patch) -> None:
    patch.setattr(Machine, "must_write", lambda _self, *, lazy, due: not lazy or due)


PLANTS: Final[dict[str, Callable[[Patch], None]]] = {
    "the checkpoint is ignored at start": _start_from_the_slot,
    "unknown is taken for committed": _unknown_is_committed,
    "unknown is taken for not committed, and sent again without fencing": _resend_without_fencing,
    "a producer is used again after an abort": _abort_and_reuse,
    "the checkpoint goes out before the events": _checkpoint_first,
    "a slow commit is taken for success": _slow_commit_is_success,
    "the verdict ignores whether all was acknowledged": _verdict_trusts_the_commit,
    "the verdict ignores the writer": _verdict_ignores_the_writer,
    "the flush position is what was received": _confirm_what_was_received,
    "a keepalive counts inside a transaction": _keepalive_inside_a_transaction,
    "an idle checkpoint is written inside a transaction": _idle_inside_a_transaction,
    "the part is forgotten at a restart": _part_forgotten,
    "the part's index is one too low": _part_index_off_by_one,
    "rows that are passed over fill a batch": _passed_over_rows_weigh,
    "the skip rule drops one too many": _skip_by_one(1),
    "the skip rule drops one too few": _skip_by_one(-1),
    "the skip rule drops nothing": _skip_nothing,
    "nobody looks at the lock before fencing": _no_look_at_the_lock,
    "nobody looks at the lock behind the fencing": _no_look_at_the_lock_behind_the_fencing,
    "nobody looks at the slot once it is held": _no_look_at_the_slot,
    "a gap passes": _gap_passes,
    "another history passes": _another_history_passes,
    "the first checkpoint is left for later": _first_checkpoint_later,
    **OPERATIONS,
    **POISONED,
    **HALTED,
}
