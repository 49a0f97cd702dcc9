"""The decisions of exactly-once, one by one: what an outcome makes of the chain of checkpoints, and who may stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail_relay.errors import (
    CheckpointLost,
    CheckpointMoved,
    Diverged,
    Gap,
    Misconfigured,
    PublicationChanged,
    RecycleLimit,
    RelayError,
    SlotLost,
)
from dovetail_relay.machine import MAX_RECYCLES, Machine, Step, admit, verdict
from dovetail_relay.nouns import (
    Batch,
    Books,
    Checkpoint,
    Lsn,
    Part,
    RelayRow,
    ServerFacts,
    TimelineSwitch,
    Verdict,
)

HAD = Checkpoint(
    epoch=1, seq=7, writer="me", system_id="sys", timeline=1, database="shop", slot="dovetail", end_lsn=Lsn(1000)
)
BATCH = Batch([], Lsn(2000), None)


def machine(durable: Checkpoint = HAD) -> Machine:
    return Machine(durable, writer="me", timeline=1)


TRIED = replace(HAD, seq=8, end_lsn=Lsn(2000))


@pytest.mark.parametrize(
    ("had", "found", "all_acknowledged", "expected"),
    [
        (HAD, TRIED, True, Verdict.COMMITTED),
        (HAD, TRIED, False, Verdict.TORN),
        (HAD, HAD, True, Verdict.NOT_COMMITTED),
        (HAD, HAD, False, Verdict.NOT_COMMITTED),
        (None, None, True, Verdict.NOT_COMMITTED),
        (HAD, None, True, Verdict.FOREIGN),
        (None, HAD, True, Verdict.FOREIGN),
        (HAD, replace(TRIED, writer="other"), True, Verdict.FOREIGN),
        (HAD, replace(TRIED, seq=9), True, Verdict.FOREIGN),
        (HAD, replace(TRIED, end_lsn=Lsn(2001)), True, Verdict.FOREIGN),
        (HAD, replace(TRIED, part=Part(Lsn(3000), 1)), True, Verdict.FOREIGN),
        (HAD, replace(TRIED, backfill=3), True, Verdict.FOREIGN),
        (HAD, replace(HAD, writer="other"), True, Verdict.FOREIGN),
        # What travels along but is no position changes nothing.
        (HAD, replace(TRIED, horizon=99, books=Books(1, 1, {})), True, Verdict.COMMITTED),
    ],
)
def test_the_checkpoint_read_back_tells_what_became_of_the_batch(
    had: Checkpoint | None, found: Checkpoint | None, all_acknowledged: bool, expected: Verdict
) -> None:
    assert verdict(had, TRIED, found, all_acknowledged=all_acknowledged) is expected


def test_only_what_was_committed_becomes_durable() -> None:
    relay = machine()
    tried = relay.propose(BATCH, horizon=5)
    assert (tried.seq, tried.end_lsn, tried.horizon, relay.durable) == (8, 2000, 5, HAD)
    assert relay.committed() is Step.CONFIRM
    assert relay.durable == tried


def test_a_second_batch_while_one_is_under_way_is_a_programming_error() -> None:
    relay = machine()
    relay.propose(BATCH, horizon=0)
    with pytest.raises(RuntimeError):
        relay.propose(BATCH, horizon=0)


@pytest.mark.parametrize("call", ["committed", "delivered"])
def test_an_outcome_without_a_batch_is_a_programming_error(call: str) -> None:
    with pytest.raises(RuntimeError):
        getattr(machine(), call)()


def test_an_unknown_outcome_that_turns_out_committed_is_confirmed() -> None:
    relay = machine()
    tried = relay.propose(BATCH, horizon=0)
    assert relay.unknown() is Step.RECYCLE
    assert relay.durable == HAD
    assert relay.recycled(tried, all_acknowledged=True) is Step.CONFIRM
    assert (relay.durable, relay.attempt, relay.recycles) == (tried, None, 0)


def test_an_unknown_outcome_that_was_not_committed_is_sent_again_under_the_same_checkpoint() -> None:
    relay = machine()
    tried = relay.propose(BATCH, horizon=0)
    relay.unknown()
    assert relay.recycled(HAD, all_acknowledged=True) is Step.RESEND
    assert (relay.durable, relay.attempt) == (HAD, tried)


def test_the_first_batch_of_all_is_sent_again_when_the_topic_is_still_empty() -> None:
    relay = machine(replace(HAD, seq=0))
    relay.propose(BATCH, horizon=0)
    relay.unknown()
    assert relay.recycled(None, all_acknowledged=False) is Step.RESEND


def test_a_torn_batch_is_sent_again_behind_its_own_checkpoint_which_is_not_durable_until_then() -> None:
    relay = machine()
    tried = relay.propose(BATCH, horizon=0)
    relay.unknown()
    assert relay.recycled(tried, all_acknowledged=False) is Step.RESEND
    assert relay.attempt is not None
    assert (relay.durable, relay.attempt.seq, relay.attempt.end_lsn) == (HAD, tried.seq + 1, tried.end_lsn)
    relay.committed()
    assert (relay.durable.seq, relay.durable.end_lsn) == (tried.seq + 1, tried.end_lsn)


def test_a_torn_batch_that_is_given_up_is_taken_again_from_where_it_came() -> None:
    relay = machine()
    tried = relay.propose(BATCH, horizon=0)
    relay.unknown()
    relay.recycled(tried, all_acknowledged=False)
    relay.abandon()
    assert relay.base == HAD
    again = relay.propose(BATCH, horizon=0)
    assert again.seq == tried.seq + 1
    relay.unknown()
    assert relay.recycled(tried, all_acknowledged=False) is Step.RESEND


@pytest.mark.parametrize("found", [None, replace(TRIED, writer="other"), replace(HAD, seq=6)])
@pytest.mark.parametrize("under_way", [True, False])
def test_a_checkpoint_of_somebody_else_ends_the_reign(found: Checkpoint | None, under_way: bool) -> None:
    relay = machine()
    if under_way:
        relay.propose(BATCH, horizon=0)
    relay.unknown()
    with pytest.raises(CheckpointMoved):
        relay.recycled(found, all_acknowledged=True)
    assert relay.durable == HAD


def test_a_recycling_between_batches_goes_on_where_it_was() -> None:
    relay = machine()
    relay.unknown()
    assert relay.recycled(HAD, all_acknowledged=False) is Step.CONFIRM


def test_too_many_producers_in_a_row_end_the_reign_and_a_commit_forgives_them_all() -> None:
    relay = machine()
    for _ in range(MAX_RECYCLES):
        relay.unknown()
    relay.propose(BATCH, horizon=0)
    relay.committed()
    for _ in range(MAX_RECYCLES):
        relay.unknown()
    with pytest.raises(RecycleLimit):
        relay.unknown()


def test_what_was_only_delivered_is_the_base_and_not_durable() -> None:
    relay = machine()
    delivered = relay.propose(BATCH, horizon=0)
    relay.delivered()
    assert (relay.base, relay.durable) == (delivered, HAD)
    later = relay.propose(Batch([], Lsn(3000), None), horizon=0)
    # The topic still holds HAD: the next one that is written follows it.
    assert later.seq == HAD.seq + 1
    relay.committed()
    assert (relay.base, relay.durable, relay.pending) == (later, later, None)


# -- admission --------------------------------------------------------------------------------------------------------

FACTS = ServerFacts(
    system_id="sys",
    timeline=1,
    database="shop",
    in_recovery=False,
    wal_lsn=Lsn(1 << 40),
    slot_found=True,
    slot_plugin="pgoutput",
    slot_database="shop",
    slot_lost=False,
    slot_temporary=False,
    confirmed_flush=Lsn(900),
    publication_fingerprint="print",
)
ROW = RelayRow(
    name="relay",
    slot="dovetail",
    system_id="sys",
    consistent_point=Lsn(500),
    snapshot="1:1:",
    epoch=1,
    publication_fingerprint="print",
    started=True,
)


def test_a_relay_whose_surroundings_are_as_recorded_goes_on_from_its_checkpoint() -> None:
    assert admit(FACTS, ROW, HAD, ()) == HAD


def test_the_slot_may_be_confirmed_up_to_the_checkpoint_and_no_further() -> None:
    assert admit(replace(FACTS, confirmed_flush=HAD.end_lsn), ROW, HAD, ()) == HAD
    with pytest.raises(Gap):
        admit(replace(FACTS, confirmed_flush=Lsn(HAD.end_lsn + 1)), ROW, HAD, ())


def test_the_very_first_start_has_no_checkpoint_and_an_untouched_slot() -> None:
    new = replace(ROW, started=False)
    untouched = replace(FACTS, confirmed_flush=ROW.consistent_point)
    assert admit(untouched, new, None, ()) is None
    with pytest.raises(Gap):
        admit(replace(FACTS, confirmed_flush=Lsn(501)), new, None, ())


def test_a_first_start_that_died_before_its_marker_goes_on_from_its_checkpoint() -> None:
    assert admit(FACTS, replace(ROW, started=False), HAD, ()) == HAD


@pytest.mark.parametrize(
    ("facts", "row", "found", "halt"),
    [
        ({"system_id": "other"}, {}, HAD, Diverged),
        ({"system_id": "other"}, {}, None, Diverged),
        ({}, {"system_id": "other"}, HAD, Diverged),
        ({}, {}, replace(HAD, system_id="other"), Diverged),
        ({"slot_found": False, "slot_plugin": None, "slot_database": None}, {}, HAD, SlotLost),
        ({"slot_plugin": "test_decoding"}, {}, HAD, SlotLost),
        ({"slot_database": "other"}, {}, HAD, SlotLost),
        ({"slot_lost": True}, {}, HAD, SlotLost),
        ({"slot_temporary": True}, {}, HAD, SlotLost),
        ({"publication_fingerprint": None}, {}, HAD, PublicationChanged),
        ({"publication_fingerprint": "new"}, {}, HAD, PublicationChanged),
        ({}, {}, None, CheckpointLost),
        ({}, {}, replace(HAD, database="other"), CheckpointLost),
        ({}, {}, replace(HAD, slot="other"), CheckpointLost),
        ({}, {"epoch": 2}, HAD, CheckpointLost),
        ({"wal_lsn": Lsn(HAD.end_lsn - 1)}, {}, HAD, Diverged),
        ({"in_recovery": True}, {}, HAD, Misconfigured),
    ],
)
def test_each_cause_of_a_halt_has_its_name(
    facts: dict[str, object], row: dict[str, object], found: Checkpoint | None, halt: type[RelayError]
) -> None:
    with pytest.raises(halt) as raised:
        admit(replace(FACTS, **facts), replace(ROW, **row), found, ())  # type: ignore[arg-type]
    assert raised.value.remedy
    assert "\n" not in raised.value.line()


@pytest.mark.parametrize(
    ("checkpoint", "history", "admitted"),
    [
        ({"end_lsn": Lsn(1000)}, (TimelineSwitch(1, Lsn(1000)),), True),
        ({"end_lsn": Lsn(1001)}, (TimelineSwitch(1, Lsn(1000)),), False),
        ({"parked_lsn": Lsn(1001)}, (TimelineSwitch(1, Lsn(1000)),), False),
        # Part of a transaction was published, and its commit record lies beyond the switch: that commit never happened.
        ({"part": Part(Lsn(1000), 3)}, (TimelineSwitch(1, Lsn(1000)),), False),
        ({"part": Part(Lsn(1000), 3)}, (TimelineSwitch(1, Lsn(1001)),), True),
        # Two switches: only the end of the checkpoint's own timeline counts.
        ({"timeline": 2}, (TimelineSwitch(1, Lsn(10)), TimelineSwitch(2, Lsn(1000))), True),
        # No ancestor at all.
        ({"timeline": 5}, (TimelineSwitch(1, Lsn(2000)),), False),
        ({}, (), False),
    ],
)
def test_a_checkpoint_survives_a_promotion_only_before_the_switch(
    checkpoint: dict[str, object], history: tuple[TimelineSwitch, ...], admitted: bool
) -> None:
    found = replace(HAD, **checkpoint)  # type: ignore[arg-type]
    promoted = replace(FACTS, timeline=3)
    if admitted:
        assert admit(promoted, ROW, found, history) == found
    else:
        with pytest.raises(Diverged):
            admit(promoted, ROW, found, history)
