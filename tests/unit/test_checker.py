"""The checker bites: each invariant that no planted bug of another test breaks is broken here."""

from __future__ import annotations

import pytest

from support.checker import (
    Sample,
    Scrape,
    Seen,
    Written,
    check,
    forgotten,
    out_of_commit_order,
    pinned,
    silent,
    slot_ahead,
)


def at(event: str, position: str, partition: int = 0) -> Seen:
    return Seen(event, event, 1, partition, position)


def test_events_of_a_partition_that_stand_behind_a_later_commit_are_named() -> None:
    good = [at("a", "0/00A/9"), at("b", "0/00A/10"), at("c", "0/00B/0"), at("d", "1/001/0"), at("e", "0/001/0", 1)]
    assert out_of_commit_order(good) == []
    assert out_of_commit_order([*good, at("f", "0/00B/1")]) == ["f"]
    assert not check([*good, at("f", "")], [*good, at("f", "0/00B/1")]).ok


def test_what_was_promised_and_is_not_in_the_table_is_named() -> None:
    assert forgotten(["a", "b"], [Seen("a", "k", 1)]) == ["b"]


def test_a_slot_that_is_ahead_of_the_checkpoints_of_its_time_is_named() -> None:
    written = [Written(1.0, 100), Written(2.0, 200)]
    early, late = Sample(1.5, 150, 0), Sample(2.5, 150, 0)
    assert slot_ahead([early, late, Sample(0.5, 50, 0)], written, first=50) == [early]


def test_a_slot_that_pins_more_than_it_may_at_the_end_is_named() -> None:
    assert pinned([Sample(1, 1, 10), Sample(2, 2, 1)], 5) == []
    assert pinned([Sample(1, 1, 1), Sample(2, 2, 10)], 5) == [Sample(2, 2, 10)]


@pytest.mark.parametrize(
    "scrape",
    [
        Scrape(503, "", "dovetail doctor", frozenset(), frozenset()),
        Scrape(503, "kafka unreachable", "", frozenset(), frozenset()),
        Scrape(503, "GAP", "dovetail recover", frozenset(), frozenset({("GAP", "dovetail recover")})),
        Scrape(503, "GAP", "dovetail recover", frozenset({"GAP"}), frozenset()),
    ],
)
def test_a_relay_that_does_not_say_why_it_stands_still_is_named(scrape: Scrape) -> None:
    assert silent([scrape]) == [scrape]


def test_a_relay_that_works_or_says_why_it_does_not_is_in_order() -> None:
    named = Scrape(503, "GAP", "dovetail recover", frozenset({"GAP"}), frozenset({("GAP", "dovetail recover")}))
    assert silent([Scrape(200, "", "", frozenset(), frozenset()), named]) == []
