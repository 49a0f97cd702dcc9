"""From which transaction on a recovery looks, and what admission makes of a recovery that is under way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail_relay.errors import CheckpointLost, Diverged, Gap
from dovetail_relay.machine import Machine, Step, admit
from dovetail_relay.nouns import Batch, Checkpoint, Lsn, RelayRow, ServerFacts, TimelineSwitch
from dovetail_relay.rebase import divergence, horizon

FACTS = ServerFacts(
    system_id="sys", timeline=1, database="db", in_recovery=False, wal_lsn=Lsn(1 << 40), slot_found=True,
    slot_plugin="pgoutput", slot_database="db", slot_lost=False, slot_temporary=False, confirmed_flush=Lsn(500),
    publication_fingerprint="fp",
)  # fmt: skip
ROW = RelayRow(
    name="r", slot="s", system_id="sys", consistent_point=Lsn(500), snapshot="10:20:", epoch=1,
    publication_fingerprint="fp", started=True,
)  # fmt: skip
UNDER_WAY = replace(ROW, epoch=2, recovery_horizon=40, recovery_command=7)
FOUND = Checkpoint(
    epoch=1, seq=9, writer="w", system_id="sys", timeline=1, database="db", slot="s", end_lsn=Lsn(300), horizon=77
)
SWITCHED = replace(FACTS, timeline=2)


def test_the_checkpoints_horizon_counts_where_the_checkpoint_does() -> None:
    assert horizon(FACTS, ROW, FOUND, ()) == 77
    # Before the switch to another timeline it is still true.
    assert horizon(SWITCHED, ROW, FOUND, (TimelineSwitch(1, Lsn(300)),)) == 77


@pytest.mark.parametrize(
    ("facts", "row", "found", "history"),
    [
        (FACTS, ROW, None, ()),
        (FACTS, ROW, replace(FOUND, slot="other"), ()),
        (FACTS, ROW, replace(FOUND, database="other"), ()),
        (FACTS, ROW, replace(FOUND, epoch=3), ()),
        (FACTS, ROW, replace(FOUND, backfill=12), ()),
        (replace(FACTS, system_id="new"), ROW, FOUND, ()),
        (FACTS, ROW, replace(FOUND, system_id="old"), ()),
        # Beyond the switch the same transaction ids were given out again.
        (SWITCHED, ROW, FOUND, (TimelineSwitch(1, Lsn(299)),)),
        (SWITCHED, ROW, FOUND, ()),
    ],
)
def test_elsewhere_every_row_is_looked_at(
    facts: ServerFacts, row: RelayRow, found: Checkpoint | None, history: tuple[TimelineSwitch, ...]
) -> None:
    assert horizon(facts, row, found, history) == 0


def test_a_recovery_that_is_interrupted_by_another_loss_keeps_its_horizon() -> None:
    assert horizon(FACTS, UNDER_WAY, FOUND, ()) == 40
    assert horizon(FACTS, UNDER_WAY, replace(FOUND, epoch=2, backfill=5), ()) == 40
    # It was over but for the mark in the row.
    assert horizon(FACTS, UNDER_WAY, replace(FOUND, epoch=2), ()) == 77


def test_a_divergence_is_seen_whatever_else_was_lost() -> None:
    assert divergence(FACTS, ROW, FOUND, ()) is None
    assert divergence(FACTS, ROW, None, ()) is None
    assert "known is sys" in (divergence(replace(FACTS, system_id="new"), ROW, None, ()) or "")
    assert "beyond" in (divergence(SWITCHED, ROW, FOUND, (TimelineSwitch(1, Lsn(299)),)) or "")


def test_a_recovery_begins_anew_only_where_the_row_says_so() -> None:
    for found in (FOUND, None, replace(FOUND, system_id="old", slot="other")):
        assert admit(FACTS, UNDER_WAY, found, ()) is None
    with pytest.raises(CheckpointLost):
        admit(FACTS, replace(ROW, epoch=2), FOUND, ())
    with pytest.raises(CheckpointLost):
        admit(FACTS, ROW, None, ())
    # One that is older than what was published is no recovery.
    with pytest.raises(CheckpointLost):
        admit(FACTS, UNDER_WAY, replace(FOUND, epoch=3), ())
    with pytest.raises(Diverged):
        admit(replace(FACTS, system_id="new"), UNDER_WAY, FOUND, ())
    with pytest.raises(Gap):
        admit(replace(FACTS, confirmed_flush=Lsn(501)), UNDER_WAY, FOUND, ())


def test_a_recovery_that_has_begun_is_admitted_like_any_other_relay() -> None:
    begun = replace(FOUND, epoch=2, end_lsn=Lsn(500), backfill=5)
    assert admit(FACTS, UNDER_WAY, begun, ()) == begun
    with pytest.raises(Gap):
        admit(replace(FACTS, confirmed_flush=Lsn(501)), UNDER_WAY, begun, ())


def test_an_unknown_first_commit_of_a_recovery_is_told_by_what_was_there_before() -> None:
    base = replace(FOUND, epoch=2, end_lsn=Lsn(500), backfill=0)

    def begun() -> Machine:
        machine = Machine(base, writer="me", timeline=1)
        machine.written, machine.before = False, FOUND
        machine.propose(Batch([], Lsn(500), None, backfill=4), horizon=40)
        assert machine.unknown() is Step.RECYCLE
        return machine

    machine = begun()
    assert machine.recycled(FOUND, all_acknowledged=True) is Step.RESEND
    machine = begun()
    attempt = machine.attempt
    assert attempt is not None
    assert (attempt.epoch, attempt.seq) == (2, 10)
    assert machine.recycled(attempt, all_acknowledged=True) is Step.CONFIRM
    assert machine.durable == attempt
