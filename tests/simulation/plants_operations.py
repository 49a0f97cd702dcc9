"""More mistakes to plant: in what is done with rows that stick, with operators' commands, and after a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from simulation.halted import Recovery
from simulation.pipeline import Pipeline
from simulation.relay import Relay
from simulation.tables import PASSED, Tables

from dovetail_relay import rebase
from dovetail_relay.admission import Admitted
from dovetail_relay.desk.desk import OperatorDesk
from dovetail_relay.desk.release import Release
from dovetail_relay.desk.replay import Replay
from dovetail_relay.ledger import Ledger
from dovetail_relay.leftovers import Leftovers
from dovetail_relay.machine import Machine, Step
from dovetail_relay.nouns import Batch, Checkpoint, Hold, Lsn, Place, RelayRow
from dovetail_relay.parking import Parking
from dovetail_relay.recovery import Ground
from dovetail_relay.source.parked import ParkedRows

Patch = pytest.MonkeyPatch

# -- what sticks ------------------------------------------------------------------------------------------------------


def _key_not_held(patch: Patch) -> None:
    real = Parking.of_stuck

    def of_stuck(self: Parking, *args: Any) -> Any:
        before = set(self.held)
        parked = real(self, *args)
        self.held = before
        return parked

    patch.setattr(Parking, "of_stuck", of_stuck)


def _hold_forgotten_by_a_new_stream(patch: Patch) -> None:
    real = Parking.begin
    patch.setattr(Parking, "begin", lambda self, _held, *others: real(self, (), *others))


def _hold_of_an_unrouted_type_forgotten(patch: Patch) -> None:
    def hold(_self: Parking, topic: str | None, aggregatetype: str, key: bytes) -> Hold:
        return (topic or f"?{aggregatetype}", key)

    patch.setattr(Parking, "_hold", hold)


def _nothing_dropped_beyond(patch: Patch) -> None:
    patch.setattr(ParkedRows, "drop_beyond", lambda _self, _durable: None)


def _parked_after_the_commit(patch: Patch) -> None:
    real = Leftovers.passed

    def passed(self: Leftovers, batch: Batch, durable: Checkpoint) -> None:
        if batch.parked:
            self._rows.write(durable.epoch, batch.parked)
        real(self, batch, durable)

    patch.setattr(Leftovers, "write", lambda _self, _batch, _epoch: Lsn(0))
    patch.setattr(Leftovers, "passed", passed)


def _refused_goes_on(patch: Patch) -> None:
    """The batch is given up, and the next one follows it."""

    def give_up(self: Pipeline, batch: Batch, places: list[Place], topics: dict[str, str]) -> None:
        self.machine.abandon()
        self.in_flight = None
        self.given_up += 1
        if batch.command is not None and self.desk is not None:
            self.desk.refused(places, topics)

    patch.setattr(Pipeline, "_give_up", give_up)


def _torn_is_durable(patch: Patch) -> None:
    real = Machine.recycled

    def recycled(self: Machine, found: Checkpoint | None, *, all_acknowledged: bool) -> Step:
        step = real(self, found, all_acknowledged=all_acknowledged)
        if self.torn is not None:
            self.durable, self.written = self.torn, True
        return step

    patch.setattr(Machine, "recycled", recycled)


# -- what an operator asks for ----------------------------------------------------------------------------------------


def _step_not_in_the_checkpoint(patch: Patch) -> None:
    real = Machine.propose

    def propose(self: Machine, batch: Batch, **named: Any) -> Checkpoint:
        return real(self, replace(batch, command=None), **named)

    patch.setattr(Machine, "propose", propose)


def _step_settled_before_it_is_sent(patch: Patch) -> None:
    real = OperatorDesk._write_plan

    def write_plan(self: OperatorDesk, command: Any, work: Any) -> None:
        real(self, command, work)
        assert self._task is not None
        self._task.committed(self._number)

    patch.setattr(OperatorDesk, "_write_plan", write_plan)


def _step_not_settled_at_start(patch: Patch) -> None:
    real = OperatorDesk.begin
    patch.setattr(OperatorDesk, "begin", lambda self, durable: real(self, replace(durable, command=None)))


def _step_numbered_anew_by_each_leader(patch: Patch) -> None:
    real = OperatorDesk._take

    def take(self: OperatorDesk, command: Any) -> None:
        real(self, command)
        self._number = 0

    patch.setattr(OperatorDesk, "_take", take)


def _replay_begins_anew(patch: Patch) -> None:
    real = Replay.__init__

    def init(self: Replay, *args: Any) -> None:
        real(self, *args)
        self._counts.durable["after"] = 0

    patch.setattr(Replay, "__init__", init)


def _released_from_the_end(patch: Patch) -> None:
    real = Release._queue
    patch.setattr(Release, "_queue", lambda self, most, most_bytes: real(self, most, most_bytes)[::-1])


def _key_free_after_each_step(patch: Patch) -> None:
    real = Release.committed

    def committed(self: Release, number: int) -> None:
        real(self, number)
        for hold in {hold for _, hold in self._step.values()}:
            self._intake.let_go(hold)

    patch.setattr(Release, "committed", committed)


def _what_waits_in_memory_forgotten(patch: Patch) -> None:
    patch.setattr(Ledger, "let_go", lambda _self, _hold, _to_record: True)


def _queue_goes_on_behind_a_stuck_row(patch: Patch) -> None:
    real = Release.step

    def step(self: Release, *args: Any) -> Any:
        self._stopped.clear()
        return real(self, *args)

    def stay(self: Release, *_args: Any) -> None:
        self._still_stuck.append("")

    patch.setattr(Release, "step", step)
    patch.setattr(Release, "_stay", stay)


def _all_of_a_queue_given_up(patch: Patch) -> None:
    real = Release._queue

    def queue(self: Release, most: int, most_bytes: int) -> Any:
        return [{**row, "chosen": True} for row in real(self, most, most_bytes)]

    patch.setattr(Release, "_queue", queue)


def _what_streams_again_not_waited_for(patch: Patch) -> None:
    patch.setattr(Release, "_absent", lambda _self: 0)


def _silent(patch: Patch, name: str) -> None:
    """What this part of the desk writes is not among what the next checkpoint rests on."""
    real = getattr(OperatorDesk, name)

    def unsaid(self: OperatorDesk, *args: Any) -> None:
        said, self._on_written = self._on_written, lambda _lsn: None
        real(self, *args)
        self._on_written = said

    patch.setattr(OperatorDesk, name, unsaid)


def _step_without_its_marks(patch: Patch) -> None:
    _silent(patch, "_write_plan")


def _settled_on_a_lost_server(patch: Patch) -> None:
    _silent(patch, "_settled")


def _released_during_a_recovery(patch: Patch) -> None:
    patch.setattr(Release, "ready", lambda _self, _base: True)


def _dropped_by_their_place_alone(patch: Patch) -> None:
    real = ParkedRows.drop_beyond
    ever = Lsn(1 << 40)
    patch.setattr(ParkedRows, "drop_beyond", lambda self, durable: real(self, replace(durable, parked_lsn=ever)))


# -- recovery ---------------------------------------------------------------------------------------------------------


def _old_epoch_trusted(patch: Patch) -> None:
    """The checkpoint of the time before counts once the slot is made anew."""
    real = Relay._admitted

    def admitted(self: Relay, ground: Ground) -> Admitted:
        row, found = ground.row, ground.found
        if found is not None and found.epoch < row.epoch and row.recovery_horizon is not None:
            base = replace(found, epoch=row.epoch, end_lsn=row.consistent_point, part=None)
            return Admitted(row, base, found, begins=False, timeline=ground.facts.timeline)
        return real(self, ground)

    patch.setattr(Relay, "_admitted", admitted)


def _step_in_doubt_taken_again(patch: Patch) -> None:
    patch.setattr("dovetail_relay.recovery.end_in_doubt", lambda _commands: None)


def _nothing_read_back(patch: Patch) -> None:
    patch.setattr(Recovery, "_sightings", lambda _self, _found: iter(()))


def _horizon_is_now(patch: Patch) -> None:
    patch.setattr(rebase, "horizon", lambda _facts, _row, found, _history: 0 if found is None else 1 << 30)


def _recovery_over_too_early(patch: Patch) -> None:
    real = Relay._publish_older

    def publish_older(self: Relay, pipeline: Pipeline, row: RelayRow, next_seq: int) -> Any:
        if row.recovery_horizon is not None:
            self.database.row = replace(self.database.row, recovery_horizon=None)
        yield from real(self, pipeline, row, next_seq)

    patch.setattr(Relay, "_publish_older", publish_older)


def _parked_not_judged_again(patch: Patch) -> None:
    patch.setattr(Tables, "_judge_again", lambda _self, _horizon, _visible: None)


def _condemned_of_an_older_epoch_stay(patch: Patch) -> None:
    real = Tables._of

    def of(self: Tables, *states: str) -> Any:
        rows = real(self, *states)
        return [row for row in rows if row["epoch"] == self._database.row.epoch] if states == PASSED else rows

    patch.setattr(Tables, "_of", of)


def _nothing_dropped_before_the_first_checkpoint(patch: Patch) -> None:
    real = ParkedRows.drop_beyond

    def drop_beyond(self: ParkedRows, durable: Checkpoint) -> None:
        if durable.writer:
            real(self, durable)

    patch.setattr(ParkedRows, "drop_beyond", drop_beyond)


OPERATIONS: Final[dict[str, Callable[[Patch], None]]] = {
    "a stuck row does not hold its key": _key_not_held,
    "a new stream does not know what is held": _hold_forgotten_by_a_new_stream,
    "a key that had no route is not held once it has one": _hold_of_an_unrouted_type_forgotten,
    "parked rows of a batch that never committed stay": _nothing_dropped_beyond,
    "parked rows of a first batch that never committed stay": _nothing_dropped_before_the_first_checkpoint,
    "rows are parked after the commit": _parked_after_the_commit,
    "what stands behind a refused record goes on": _refused_goes_on,
    "a torn checkpoint is the base": _torn_is_durable,
    "the checkpoint does not carry the step": _step_not_in_the_checkpoint,
    "a step is settled before it is sent": _step_settled_before_it_is_sent,
    "a new leader does not settle the step": _step_not_settled_at_start,
    "each leader numbers the steps anew": _step_numbered_anew_by_each_leader,
    "a replay begins anew with each leader": _replay_begins_anew,
    "a queue is released from its end": _released_from_the_end,
    "a key is free after each step": _key_free_after_each_step,
    "what waits in memory is forgotten by a release": _what_waits_in_memory_forgotten,
    "a release goes on behind a row that is stuck still": _queue_goes_on_behind_a_stuck_row,
    "a discard gives up the whole queue": _all_of_a_queue_given_up,
    "a discard does not wait for what streams again": _what_streams_again_not_waited_for,
    "a promoted server need not have the marks of a step": _step_without_its_marks,
    "a promoted server need not know that a step is settled": _settled_on_a_lost_server,
    "only their place tells which parked rows never were": _dropped_by_their_place_alone,
    "a queue is released while a recovery publishes": _released_during_a_recovery,
    "a recovery trusts the old epoch": _old_epoch_trusted,
    "a recovery without a checkpoint does a step again": _step_in_doubt_taken_again,
    "a recovery reads nothing back": _nothing_read_back,
    "a recovery begins at a horizon that is too late": _horizon_is_now,
    "a recovery is over before its rows are out": _recovery_over_too_early,
    "a recovery does not judge again what waits": _parked_not_judged_again,
    "rows that an older epoch stood before stay": _condemned_of_an_older_epoch_stay,
}
