"""The books: sums that no order changes, and that lose nothing on their way into hours and totals."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay import books
from dovetail_relay.books import FINE, HOUR, HOURS, NOTHING, OTHERS, TOPICS, add, begin, minus, plus, sum_of, tally
from dovetail_relay.nouns import Books, Record, Sum
from dovetail_schemas.headers import format_time

# 2026-01-31T12:00:00Z, the beginning of an hour.
NOON = 1_769_860_800 // 10
IDS = st.lists(st.uuids(), max_size=40)


def text(event_id: uuid.UUID) -> bytes:
    return str(event_id).encode()


def record(topic: str, bucket: int, event_id: uuid.UUID, micros: int = 0) -> Record:
    time = format_time(bucket * 10_000_000 + micros).encode()
    headers = [("id", text(event_id)), ("type", b"T"), ("time", time), ("position", b"1/0/1"), ("more", b"x")]
    return Record(topic, b"v", b"k", headers)


def naive(ids: list[uuid.UUID]) -> Sum:
    total = 0
    for one in ids:
        total ^= one.int
    return Sum(len(ids), total)


@given(IDS)
def test_a_sum_is_the_count_and_the_xor_in_any_order(ids: list[uuid.UUID]) -> None:
    shuffled = random.Random(1).sample(ids, len(ids))
    assert sum_of([text(one) for one in shuffled]) == naive(ids)


@given(IDS, IDS)
def test_sums_add_up_and_can_be_taken_away_again(some: list[uuid.UUID], more: list[uuid.UUID]) -> None:
    both = plus(naive(some), naive(more))
    assert both == naive(some + more)
    assert minus(both, naive(more)) == naive(some)


@pytest.mark.parametrize("ids", [[b"x" * 36], [text(uuid.uuid4()), b"ab"], [text(uuid.uuid4())[:-2]]])
def test_what_is_no_uuid_is_refused(ids: list[bytes]) -> None:
    with pytest.raises(ValueError):
        sum_of(ids)


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(NOON - 2, NOON + 2), st.uuids(), st.integers(0, 9_999_999)),
    max_size=50,
)


@given(ROWS)
def test_a_batch_adds_what_its_records_say(rows: list[tuple[str, int, uuid.UUID, int]]) -> None:
    found = tally([record(*row) for row in rows])
    places = {(topic, bucket) for topic, bucket, _, _ in rows}
    assert found == {
        place: naive([event_id for topic, bucket, event_id, _ in rows if (topic, bucket) == place]) for place in places
    }


def filled(rows: list[tuple[str, int, uuid.UUID]], start: int = NOON - HOUR) -> Books:
    """One batch per row, committed when it was created."""
    found = begin(start)
    for topic, bucket, event_id in rows:
        found = add(found, tally([record(topic, bucket, event_id)]), bucket=bucket)
    return found


def everything(found: Books) -> Sum:
    return books.total_of(
        one
        for topic in found.topics.values()
        for one in (topic.total, *topic.hours.values(), *topic.fine.values())
    )  # fmt: skip


STREAM = st.lists(
    st.tuples(
        st.sampled_from("abcdefghijkl"),
        st.integers(NOON - 3 * HOUR, NOON + 30 * HOUR) | st.integers(NOON, NOON + 10),
        st.uuids(),
    ),
    max_size=60,
)


@given(STREAM, st.integers(0, (NOON + 30 * HOUR) // HOUR))
def test_nothing_is_lost_on_the_way_into_hours_and_totals(
    rows: list[tuple[str, int, uuid.UUID]], verified: int
) -> None:
    found = begin(NOON - HOUR)
    for topic, bucket, event_id in rows:
        found = add(found, tally([record(topic, bucket, event_id)]), bucket=bucket, verified_hour=verified)
        assert found.since <= found.fine_from
        assert len(found.topics) <= TOPICS + 1
        assert len(list(books.hours_of(found))) <= HOURS
        for topic_books in found.topics.values():
            assert all(at >= found.fine_from for at in topic_books.fine)
    assert everything(found) == naive([event_id for _, _, event_id in rows])


@given(STREAM)
def test_each_piece_holds_exactly_what_was_created_in_its_time(rows: list[tuple[str, int, uuid.UUID]]) -> None:
    rows = [row for row in rows if row[1] <= NOON + 10]
    found = filled(sorted(rows, key=lambda row: row[1] != NOON))
    pieces = [*books.hours_of(found), *(books.fine_of(found, at) for at in range(found.fine_from, NOON + 20))]
    assert pieces[0].start == found.since
    for before, after in pairwise(pieces):
        assert before.end == after.start
    for piece in pieces:
        assert piece.total() == naive([row[2] for row in rows if piece.start <= row[1] < piece.end])


def test_one_batch_over_many_buckets_is_booked_exactly() -> None:
    rows = [("a", NOON + number, uuid.uuid4()) for number in range(50)]
    found = add(begin(NOON - 1), tally([record(*row) for row in rows]), bucket=NOON + 49)
    assert found.topics["a"].total == NOTHING
    (hour,) = books.hours_of(found)
    assert hour.total() == naive([row[2] for row in rows if row[1] < found.fine_from])


@given(STREAM)
def test_the_text_is_json_and_gives_back_the_same(rows: list[tuple[str, int, uuid.UUID]]) -> None:
    found = filled(rows)
    assert books.parse(json.loads(books.text(found))) == found
    assert books.parse(json.loads(books.text(None))) is None


@pytest.mark.parametrize("broken", [{"since": 1}, {"since": 1, "fine_from": 1, "topics": {"a": {}}}, [1], "x", 7])
def test_what_is_no_book_is_refused(broken: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        books.parse(broken)


def test_a_busy_week_stays_small_and_a_batch_rewrites_its_own_topics_only() -> None:
    chance = random.Random(3)
    found = begin(NOON)
    longest = 0
    for bucket in range(NOON + 1, NOON + 60 * HOUR):
        delta = {(f"topic-{chance.randrange(20)}", bucket): naive([uuid.UUID(int=chance.getrandbits(128))])}
        found = add(found, delta, bucket=bucket, verified_hour=bucket // HOUR)
        longest = max(longest, len(books.text(found)))
    assert longest < 6000
    before = found
    name = next(iter(before.topics))
    after = add(before, {(name, before.fine_from): Sum(1, 1)}, bucket=0)
    assert [topic for topic in after.topics if after.topics[topic] is not before.topics[topic]] == [name]
    assert add(after, {}, bucket=0) is after


def test_topics_beyond_those_with_a_name_share_an_entry() -> None:
    found = filled([(f"t{number}", NOON, uuid.uuid4()) for number in range(TOPICS + 3)])
    assert set(found.topics) == {f"t{number}" for number in range(TOPICS)} | {OTHERS}
    counts = Counter({name: books.fine_of(found, NOON).topics[name].events for name in found.topics})
    assert counts[OTHERS] == 3
    assert counts["t0"] == 1


def test_a_clock_that_was_far_ahead_begins_the_books_anew_and_keeps_their_totals() -> None:
    found = filled([("a", NOON, uuid.uuid4()), ("a", NOON + 100 * HOUR, uuid.uuid4())])
    later = add(found, tally([record("a", NOON + 1, uuid.uuid4())]), bucket=NOON + 1)
    assert later.since == later.fine_from == NOON + 2
    assert everything(later).events == 3


def test_rows_that_were_created_before_the_books_began_are_in_the_total_only() -> None:
    found = filled([("a", NOON - 1, uuid.uuid4()), ("a", NOON, uuid.uuid4())], start=NOON - 1)
    assert found.topics["a"].total.events == 1
    assert books.fine_of(found, NOON).total().events == 1
    assert found.fine_from == max(NOON, NOON - FINE + 1)


def test_what_is_dated_further_ahead_than_tomorrow_is_in_the_total_only() -> None:
    tomorrow, after = (NOON // books.DAY + 2) * books.DAY - 1, (NOON // books.DAY + 2) * books.DAY
    found = add(begin(NOON - 1), {("a", tomorrow): Sum(1, 1), ("a", after): Sum(1, 2)}, bucket=NOON)
    assert (found.topics["a"].total, found.topics["a"].fine) == (Sum(1, 2), {tomorrow: Sum(1, 1)})


def test_of_an_hour_that_was_written_ahead_no_part_is_known_before_it_is_over() -> None:
    ahead = {("a", NOON + HOUR + number): Sum(1, number) for number in range(FINE + 20)}
    found = add(begin(NOON - 1), {**ahead, ("a", NOON): Sum(1, 99)}, bucket=NOON)
    assert books.fine_of(found, NOON) is not None
    assert books.fine_of(found, NOON + HOUR) is None
    found = add(found, {}, bucket=NOON + HOUR + FINE + 3)
    assert found.coarse == (NOON + HOUR) // HOUR
    assert books.fine_of(found, found.fine_from) is None
    assert [piece.start for piece in books.hours_of(found)] == [NOON]
    found = add(found, {}, bucket=NOON + 2 * HOUR + FINE)
    assert [piece.total().events for piece in books.hours_of(found)] == [1, FINE + 20, 0]
    assert books.fine_of(found, found.fine_from) is not None


def test_a_time_that_a_service_made_up_does_not_fill_the_checkpoint() -> None:
    rows = [record("a", NOON + 1000 * number, uuid.uuid4()) for number in range(100)]
    found = add(begin(NOON - 1), tally(rows), bucket=NOON)
    assert len(books.text(found)) < 2000
    assert everything(found).events == 100
    assert Sum(0, 0) == NOTHING
