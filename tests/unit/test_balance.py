"""When a difference between books and outbox is one: never what was on its way, and always what is lost."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.balance import Balance, Mark, Side
from dovetail_relay.books import FINE, HOUR, NOTHING, Piece, add, begin, fine_of, hours_of, plus
from dovetail_relay.nouns import Books, Lsn, Sum

# 2026-01-31T12:00:00Z, the beginning of an hour.
NOON = 1_769_860_800 // 10
ONE, TWO, MORE = (Sum(1, uuid.UUID(int=number).int) for number in (1, 2, 4))


def mark(number: int, bucket: int = NOON + 3, *, oldest: int | None = None) -> Mark:
    """The `number`-th look. `oldest`: what is under way."""
    return Mark(f"{number if oldest is None else oldest}:{number}:", Lsn(number), bucket)


def books(*events: tuple[int, Sum], now: int = NOON + 2, start: int = NOON - 2 * HOUR) -> Books:
    return add(begin(start), {("t", at): found for at, found in events}, bucket=now)


def side(settled: Sum = NOTHING, young: Sum = NOTHING) -> Side:
    return Side({"t": settled} if settled.events else {}, young)


class Looks:
    """A leader's looks at an outbox that is given as a function of the bucket."""

    def __init__(self) -> None:
        self.balance = Balance()
        self.number = 10

    def buckets(
        self, kept: Mapping[int, Side], found: Books, bucket: int = NOON + 3, *, oldest: int | None = None
    ) -> list[int]:
        self.number += 10
        now = mark(self.number, bucket, oldest=oldest)
        due = self.balance.due(found, now, 0)
        for at in due:
            self.balance.judge_bucket(found, now, at, kept.get(at, Side()))
        return due

    def hours(self, kept: Callable[[Piece], Side], found: Books, *, oldest: int | None = None) -> bool | None:
        self.number += 10
        now = mark(self.number, oldest=oldest)
        self.balance.due(found, now, 0)
        self.balance.judge_hours(now, [(piece, kept(piece)) for piece in hours_of(found)])
        return self.balance.balanced()


def looks_at_nothing_amiss() -> Looks:
    looks = Looks()
    looks.balance.judge_hours(mark(1), [])
    return looks


def test_each_bucket_is_looked_at_once_when_it_is_over() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    assert looks.buckets({NOON: side(ONE)}, found) == list(range(NOON + 2 - FINE + 1, NOON + 3))
    assert looks.balance.balanced() is True
    assert looks.buckets({NOON: side(ONE)}, found) == []
    assert looks.buckets({}, found, NOON + 4) == [NOON + 3]


def test_an_event_that_is_not_in_the_books_is_said_at_the_second_look_and_named() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    kept = {NOON: side(plus(ONE, TWO))}
    looks.buckets(kept, found)
    assert looks.balance.balanced() is None
    assert looks.buckets(kept, found) == [NOON]
    wrong = looks.balance.wrong()
    assert wrong is not None
    assert (looks.balance.balanced(), wrong.topics, wrong.kept, wrong.booked) == (False, ("t",), 2, 1)
    assert wrong.missing == uuid.UUID(int=2)
    assert (wrong.since(), wrong.until()) == ("2026-01-31T12:00:00Z", "2026-01-31T12:00:10Z")


def test_a_difference_that_is_another_one_each_time_is_none() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    for more in (TWO, MORE, TWO, MORE):
        looks.buckets({NOON: side(plus(ONE, more))}, found)
        assert looks.balance.balanced() is None
    looks.buckets({NOON: side(ONE)}, found)
    assert looks.balance.balanced() is True


def test_the_same_moment_seen_twice_is_one_look() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    now = mark(20)
    for _ in range(3):
        for at in looks.balance.due(found, now, 0):
            looks.balance.judge_bucket(found, now, at, Side())
    assert looks.balance.balanced() is None


def test_young_rows_are_waited_for_whether_they_are_out_or_not() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, plus(ONE, TWO)), (NOON + 1, ONE))
    kept = {NOON: side(ONE, TWO), NOON + 1: side(ONE, MORE)}
    looks.buckets(kept, found)
    assert looks.buckets(kept, found) == [NOON + 1]
    assert looks.balance.balanced() is True
    # One of two young ones is out: nobody can say more of it.
    looks.buckets({NOON + 1: side(NOTHING, plus(ONE, MORE))}, found)
    looks.buckets({NOON + 1: side(NOTHING, plus(ONE, MORE))}, found)
    assert looks.balance.balanced() is True


def test_an_event_that_the_table_does_not_show_yet_is_too_much_only_when_all_who_were_under_way_are_over() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    for _ in range(3):
        looks.buckets({}, found, oldest=5)
        assert looks.balance.balanced() is None
    looks.buckets({}, found)
    assert looks.balance.balanced() is False
    assert looks.balance.wrong() == looks.balance.wrong()
    wrong = looks.balance.wrong()
    assert wrong is not None
    assert (wrong.kept, wrong.booked, wrong.missing) == (0, 1, None)


def test_a_transaction_that_runs_for_hours_hides_no_loss() -> None:
    looks, found = looks_at_nothing_amiss(), books()
    for _ in range(2):
        looks.buckets({NOON: side(ONE)}, found, oldest=5)
    assert looks.balance.balanced() is False


def test_what_a_bucket_could_not_tell_before_it_went_its_hour_tells_at_once() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    looks.buckets({NOON: side(plus(ONE, TWO))}, found)
    later = add(found, {}, bucket=NOON + FINE + 5)
    looks.buckets({}, later, NOON + 3)
    assert looks.balance.hurry

    def kept(piece: Piece) -> Side:
        return side(plus(ONE, TWO)) if piece.start <= NOON < piece.end else side()

    assert looks.hours(kept, later) is None
    assert looks.balance.hurry
    assert looks.hours(kept, later) is False
    assert not looks.balance.hurry


def test_a_wrong_bucket_stays_wrong_in_its_hour_until_the_hour_agrees_or_leaves_the_books() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    for _ in range(2):
        looks.buckets({NOON: side(plus(ONE, TWO))}, found)
    later = add(found, {}, bucket=NOON + FINE + 5)
    for _ in range(2):
        assert (
            looks.hours(lambda piece: side(plus(ONE, TWO) if piece.start <= NOON < piece.end else NOTHING), later)
            is False
        )
    wrong = looks.balance.wrong()
    assert wrong is not None
    assert wrong.missing == uuid.UUID(int=2)
    assert looks.balance.verified_hour == NOON // HOUR
    assert looks.hours(lambda piece: side(ONE if piece.start <= NOON < piece.end else NOTHING), later) is True
    for _ in range(2):
        looks.hours(lambda piece: side(plus(ONE, TWO)), later)
    assert looks.balance.balanced() is False
    gone = add(later, {}, bucket=NOON + 30 * HOUR, verified_hour=NOON // HOUR + 29)
    looks.hours(lambda piece: side(), gone)
    assert looks.balance.balanced() is True


def test_hours_are_verified_in_one_piece_from_the_first_on() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON - HOUR, ONE), now=NOON + HOUR)
    first = NOON // HOUR - 2
    looks.hours(lambda piece: side(), found)
    assert looks.balance.verified_hour == first + 1
    looks.hours(lambda piece: side(ONE if piece.start == NOON - HOUR else NOTHING), found)
    assert looks.balance.verified_hour == NOON // HOUR


def test_nothing_is_said_before_the_first_look_at_all_that_is_kept() -> None:
    looks, found = Looks(), books((NOON, ONE))
    looks.buckets({NOON: side(ONE)}, found)
    assert looks.balance.balanced() is None
    assert looks.hours(lambda piece: side(), found) is True


def test_after_a_long_silence_the_buckets_come_in_portions_and_none_is_left_out() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    seen: list[int] = []
    end = NOON + 3 * HOUR
    for _ in range(5):
        seen += looks.buckets({NOON: side(ONE)}, found, end)
    assert seen == list(range(found.fine_from, end))


def test_what_may_be_emptied_is_not_compared() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    assert looks.balance.due(found, mark(20), NOON + 1) == [NOON + 1, NOON + 2]


def test_a_clock_that_was_put_back_stops_nothing() -> None:
    looks, found = looks_at_nothing_amiss(), books((NOON, ONE))
    looks.buckets({NOON: side(ONE)}, found, NOON + 300)
    assert looks.buckets({}, found, NOON + 10) == []
    assert looks.buckets({}, found, NOON + 11) == [NOON + 10]


# -- any history ------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 40),  # steps of ten seconds until it is committed
        st.sampled_from([0, 0, 0, 0, -1, -3, -20, -400, 2, 14, 30, 500, 9000, 20000]),  # created so much later
        st.booleans(),  # whether it is parked for good
    ),
    max_size=60,
)


@given(EVENTS, st.randoms(), st.integers(0, 3))
def test_in_any_history_an_honest_relay_is_never_said_to_be_unbalanced_and_a_lost_event_is(
    events: list[tuple[int, int, bool]], chance: random.Random, lag: int
) -> None:
    for lost in (False, True):
        _history(events, chance, lag, lost=lost)


def test_services_whose_clocks_are_minutes_or_an_hour_ahead_unbalance_nothing_and_hide_nothing() -> None:
    always = [(step, ahead, False) for step in range(0, 455, 2) for ahead in (0, 30, 350)]
    once = [(step, ahead, False) for step in range(20) for ahead in (0, 30, 350)]
    for events in (always, once):
        for lost in (False, True):
            _history(events, random.Random(5), 1, lost=lost)


def _history(events: list[tuple[int, int, bool]], chance: random.Random, lag: int, *, lost: bool) -> None:
    looks = Looks()
    found = begin(NOON - 1)
    table: list[tuple[int, int, Sum]] = []  # (when committed, bucket, id)
    for step, ahead, parked in sorted(events):
        one = Sum(1, chance.getrandbits(128))
        if not parked:
            table.append((step, NOON + step + ahead, one))
    missing = Sum(1, chance.getrandbits(128))
    victim = (20, NOON + 20, missing)
    booked = list(table)
    if lost:
        table.append(victim)
    ends = 460
    for step in range(ends):
        published = [(at, one) for when, at, one in booked if when == step - lag]
        for at, one in published:
            found = add(found, {("t", at): one}, bucket=NOON + step - lag, verified_hour=looks.balance.verified_hour)
        # Others keep the stream's time going.
        found = add(found, {}, bucket=NOON + step - lag, verified_hour=looks.balance.verified_hour)
        looks.number += 10
        now = Mark(f"{looks.number}:{looks.number}:", Lsn(looks.number), NOON + step - lag)

        def kept(start: int, end: int, step: int = step) -> Side:
            """Of the leaves that are looked at; rows behind the mark are young."""
            settled = young = NOTHING
            for when, at, one in table:
                if start <= at < end and when <= step and at // (24 * HOUR) <= (NOON + when) // (24 * HOUR) + 1:
                    settled, young = (plus(settled, one), young) if when <= step - lag else (settled, plus(young, one))
            return side(settled, young)

        for at in looks.balance.due(found, now, 0):
            looks.balance.judge_bucket(found, now, at, kept(at, at + 1))
        if step % 3 == 0:
            looks.balance.judge_hours(now, [(piece, kept(piece.start, piece.end)) for piece in hours_of(found)])
        if not lost:
            assert looks.balance.balanced() is not False, (step, looks.balance.wrong())
    assert (looks.balance.balanced() is False) == lost
    assert fine_of(found, found.fine_from - 1) is None


def test_a_loss_in_the_hour_in_which_the_books_begin_counts_like_any_other() -> None:
    """The books of a new relay, and those behind a recovery, begin in the middle of an hour."""
    looks, found = Looks(), books((NOON - 50, ONE), start=NOON - 100)
    assert len(list(hours_of(found))) == 1
    assert looks.hours(lambda _piece: side(plus(ONE, TWO)), found) is None
    assert looks.hours(lambda _piece: side(plus(ONE, TWO)), found) is False
    looks.buckets({}, found)
    assert looks.balance.balanced() is False, "and it stays so"
