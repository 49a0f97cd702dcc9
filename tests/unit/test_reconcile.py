"""The arithmetic of `dovetail reconcile`: which minutes differ, in what pieces they are read, which time is meant."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.nouns import Sum
from dovetail_relay.reconcile.report import verdict
from dovetail_relay.reconcile.run import Named, Report, What
from dovetail_relay.reconcile.sums import HOUR, MINUTE, Added, Slice, put, sliced
from dovetail_relay.reconcile.window import NoWindow, Window, moment, window

NOW = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC).timestamp()
MIDNIGHT = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())
DAY = 86_400


def event(number: int) -> Sum:
    return Sum(1, uuid.uuid5(uuid.NAMESPACE_OID, str(number)).int)


def added(**sides: list[tuple[str, int, int]]) -> Added:
    """Side -> (topic, minute, event)."""
    found = Added()
    for side, rows in sides.items():
        for topic, minute, number in rows:
            put(getattr(found, side), topic, minute, event(number))
    return found


ROWS = [("a", 1, 1), ("a", 1, 2), ("b", 2, 3)]


@pytest.mark.parametrize(
    ("sides", "differing", "waiting"),
    [
        ({"settled": ROWS, "published": ROWS}, [], [1, 2]),
        ({"settled": ROWS, "published": [("b", 1, 1), ("a", 1, 2), ("a", 2, 3)]}, [], [1, 2]),
        ({"settled": ROWS, "published": ROWS[1:]}, [1], [2]),
        ({"settled": ROWS, "published": [*ROWS, ("a", 1, 2)]}, [1], [2]),
        ({"settled": ROWS, "published": [*ROWS, ("a", 9, 9)]}, [9], [1, 2]),
        ({"settled": ROWS, "published": [("a", 1, 1), ("a", 1, 1), ("b", 2, 3)]}, [1], [2]),
        ({"settled": ROWS, "parked": ROWS[:1], "published": ROWS[1:]}, [], [1, 2]),
        ({"settled": ROWS, "parked": ROWS[:1], "published": ROWS}, [1], [2]),
        ({"settled": ROWS[1:], "young": ROWS[:1], "published": ROWS[1:]}, [], [1, 2]),
        ({"settled": ROWS[1:], "young": ROWS[:1], "published": ROWS}, [], [2]),
        ({"young": ROWS[:2], "published": ROWS[:1]}, [1], []),
        ({"young": ROWS}, [], [1, 2]),
    ],
)
def test_which_minutes_differ(sides: dict[str, list[tuple[str, int, int]]], differing: list[int], waiting: list[int]):
    assert added(**sides).judged() == (differing, waiting)


@given(st.frozensets(st.integers(0, 300)))
def test_the_spans_of_a_slice_are_its_minutes_and_none_is_longer_than_an_hour(minutes: frozenset[int]) -> None:
    spans = list(Slice(minutes).spans())
    assert {minute for start, end in spans for minute in range(start // MINUTE, end // MINUTE)} == minutes
    assert all(0 < end - start <= HOUR for start, end in spans)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_slices_hold_no_more_events_than_are_allowed_but_each_at_least_a_minute(counts: list[int]) -> None:
    found = Added(settled={("a", minute): Sum(count, 0) for minute, count in enumerate(counts)})
    slices = sliced(found, list(range(len(counts))), 60)
    assert [minute for piece in slices for minute in sorted(piece.minutes)] == list(range(len(counts)))
    for piece in slices:
        assert len(piece.minutes) == 1 or sum(counts[minute] for minute in piece.minutes) <= 60


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("6h", timedelta(hours=6)),
        (" 90 m ", timedelta(minutes=90)),
        ("3d", timedelta(days=3)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+01:00", datetime(2026, 1, 31, 11, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_or_an_age(text: str, meant: object) -> None:
    assert moment(text) == meant


@pytest.mark.parametrize("text", ["", "h", "6", "-6h", "6 weeks", "yesterday", "2026-02-30", "1234567890123"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        moment(text)


def test_the_window_begins_where_rows_are_surely_kept_and_ends_with_this_minute() -> None:
    whole = window(None, None, now=NOW, retention_days=7)
    assert whole == Window(MIDNIGHT - 6 * DAY, MIDNIGHT + 12 * HOUR + MINUTE)
    early = window(moment("10d"), moment("2026-01-30"), now=NOW, retention_days=7)
    assert (early.start, early.end) == (whole.start, MIDNIGHT - DAY)
    assert early.asked is not None
    assert early.asked < early.start
    late = window(moment("90s"), moment("2030-01-01"), now=NOW, retention_days=7)
    assert late == Window(whole.end - 2 * MINUTE, whole.end)


@pytest.mark.parametrize(("since", "until"), [("1h", "2h"), ("2030-01-01", None), (None, "2020-01-01")])
def test_a_window_without_a_minute_is_refused(since: str | None, until: str | None) -> None:
    with pytest.raises(NoWindow):
        window(since and moment(since), until and moment(until), now=NOW, retention_days=7)


def report_of(missing: list[Named]) -> Report:
    nothing = cast("Any", None)
    found = Report("dovetail", Window(MIDNIGHT, MIDNIGHT + DAY), nothing, Added(), nothing)
    for one in missing:
        found.count("t", 0, What.MISSING)
        found.name(one)
    return found


@pytest.mark.parametrize("missing", [1, 5, 6, 256])
def test_what_is_missing_can_be_typed_whatever_its_number(missing: int) -> None:
    start = datetime(2026, 1, 31, 12, 0, 59, tzinfo=UTC)
    events = [
        Named(What.MISSING, uuid.UUID(int=number), "t", start + timedelta(seconds=number), "T")
        for number in range(missing)
    ]
    _, _, said = verdict(report_of(events)).partition("next: dovetail replay ")
    if missing <= 5:
        assert said.startswith(" ".join(f"--id {event.id}" for event in events) + " --reason …")
    else:
        until = (start + timedelta(seconds=missing - 1 + 60)).strftime("%H:%MZ")
        assert said.startswith(f"--since 2026-01-31T12:00Z --until 2026-01-31T{until} --reason …")
