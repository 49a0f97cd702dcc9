"""The books against the outbox on a real server: what is compared, what is left out, and what is said."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.books import FINE, HOUR, add, begin
from dovetail_relay.comparison import Comparison
from dovetail_relay.config import load
from dovetail_relay.nouns import Books, Checkpoint, Lsn, Sum
from dovetail_relay.retention import LEAVES, Session, look, open_session
from dovetail_relay.telemetry import Telemetry
from dovetail_schemas.sql import queries
from support.outbox_database import outbox_database as tables

__all__ = ["tables"]

DAY = 24 * HOUR
ROW = (
    "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, created_at, bucket)"
    " VALUES (%s, %s, 'k', 'Placed', '', to_timestamp(%s), %s)"
)
PARK = """
INSERT INTO dovetail.parked (relay, epoch, commit_lsn, index, hold_topic, hold_key, reason, message, state, id,
    aggregatetype, aggregateid, type, encoding, headers, created_us)
SELECT %s, 1, '0/1', count(*), 't', '', 'r', 'm', %s, %s, 'order', 'k', 'Placed', 'avro', '{}',
    (%s - 946684800)::bigint * 1000000
FROM dovetail.parked
"""
END = Lsn(1 << 62)


class Place:
    """An outbox, a relay's books about it, and a housekeeping whose clock the test turns."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        with self.owner() as owner:
            owner.execute("GRANT dovetail_relay TO relay")
            row = owner.execute("SELECT floor(extract(epoch FROM now()) / 10)::bigint").fetchone()
        assert row is not None
        self.now: int = row[0]
        self.clock = 0.0
        self.books = begin(self.now - 3 * HOUR)
        self.succeeded()

    def succeeded(self) -> None:
        """Another leader."""
        settings = load(None, {**self.endpoints.environment(), "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:1"})
        self.telemetry = Telemetry()
        self.comparison = Comparison(settings, self.telemetry, clock=lambda: self.clock)

    @contextmanager
    def owner(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with psycopg.connect(self.endpoints.owner_dsn, autocommit=True) as connection:
            yield connection

    def row(self, at: int, *, leaf: int | None = None, aggregatetype: str = "order") -> uuid.UUID:
        """An event created in bucket `at`; its leaf is that of today unless the test says another."""
        event, day = uuid.uuid4(), self.now // DAY if leaf is None else leaf
        with self.owner() as owner:
            owner.execute(ROW, (event, aggregatetype, at * 10, day % LEAVES))
        return event

    def booked(self, at: int, *events: uuid.UUID, topic: str = "outbox.event.order") -> None:
        for event in events:
            self.books = add(self.books, {(topic, at): Sum(1, event.int)}, bucket=0)
        self.books = add(self.books, {}, bucket=self.now)

    def park(self, event: uuid.UUID, at: int, state: str = "parked", relay: str = "dovetail") -> None:
        with self.owner() as owner:
            owner.execute(PARK, (relay, state, event, at * 10))

    def look(self, books: Books | None = None, *, end_lsn: Lsn = END, session: Session | None = None) -> float:
        """One look after another rest; the metric."""
        self.clock += 3600
        checkpoint = Checkpoint(1, 5, "me", "s", 1, "d", "slot", end_lsn, books=books or self.books)
        if session is not None:
            self.comparison.look(session, checkpoint)
        else:
            with open_session(self.endpoints.relay_dsn) as opened:
                look(opened)
                self.comparison.look(opened, checkpoint)
        value = self.telemetry.registry.get_sample_value("dovetail_books_balanced")
        assert value is not None
        return value


@pytest.fixture
def place(tables: Endpoints) -> Place:
    return Place(tables)


def test_books_that_hold_what_the_outbox_holds_are_balanced(place: Place) -> None:
    for at in (place.now - 2 * HOUR, place.now - HOUR, place.now - FINE, place.now - 2):
        place.booked(at, place.row(at), place.row(at))
    assert place.look() == 1
    assert place.comparison.balance.verified_hour == (place.now - FINE + 1) // HOUR


@pytest.mark.parametrize("age", [2, FINE + 2, HOUR, 2 * HOUR])
def test_a_row_that_is_not_in_the_books_is_found_at_every_age(place: Place, age: int) -> None:
    at = place.now - age
    place.booked(at, place.row(at))
    lost = place.row(at)
    assert place.look() != 0
    assert place.look() == 0
    wrong = place.comparison.balance.wrong()
    assert wrong is not None
    assert (wrong.missing, wrong.kept, wrong.booked, wrong.topics) == (lost, 2, 1, ("outbox.event.order",))
    place.booked(at, lost)
    assert place.look() == 1


@pytest.mark.parametrize("age", [2, HOUR])
def test_a_difference_is_told_by_the_next_leader_from_its_first_look_on_until_it_is_gone(
    place: Place, age: int
) -> None:
    with place.owner() as owner:
        owner.execute(
            "INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, publication_fingerprint)"
            " VALUES ('dovetail', 's', '1', '0/1', 'f')"
        )
    at = place.now - age
    place.booked(at, place.row(at))
    lost = place.row(at)
    assert [place.look(), place.look()][1] == 0
    found = place.comparison.balance.wrong()
    place.succeeded()
    assert place.look() == 0, "a look alone would only doubt"
    assert place.comparison.balance.wrong() == found
    place.booked(at, lost)
    assert place.look() == 1
    place.succeeded()
    assert place.look() == 1, "and what is over is not told again"


def test_new_books_do_not_say_that_what_was_wrong_before_them_is_well(place: Place) -> None:
    at = place.now - HOUR
    place.booked(at, place.row(at))
    place.row(at)
    assert [place.look(), place.look()][1] == 0
    place.books = begin(place.now - FINE)
    assert [place.look(), place.look()] == [0, 0], "a recovery has begun new ones"


def test_an_event_in_the_books_that_no_row_stands_for_is_too_much(place: Place) -> None:
    place.booked(place.now - 3, uuid.uuid4())
    assert place.look() != 0
    assert place.look() == 0


@pytest.mark.parametrize("state", ["parked", "discarded", "dead_lettered"])
def test_what_the_relay_passed_over_is_not_due(place: Place, state: str) -> None:
    for at in (place.now - HOUR, place.now - 3):
        place.booked(at, place.row(at))
        place.park(place.row(at), at, state)
    assert place.look() == 1


def test_what_another_relay_parked_or_an_id_parked_on_another_day_is_due(place: Place) -> None:
    at = place.now - 3
    event = place.row(at)
    place.park(event, at, relay="another")
    place.park(event, at - DAY)
    place.booked(at, event)
    assert place.look() == 1


def test_nothing_is_compared_before_the_checkpoint_has_come_to_a_mark(place: Place) -> None:
    place.booked(place.now)
    place.row(place.now - 3)
    for _ in range(3):
        assert str(place.look(end_lsn=Lsn(1))) == "nan"
    place.look()
    assert place.look() == 0


def test_a_row_that_was_committed_behind_the_mark_is_waited_for(place: Place) -> None:
    at = place.now - 3
    place.booked(place.now)
    with psycopg.connect(place.endpoints.owner_dsn) as writer:
        event = uuid.uuid4()
        writer.execute(ROW, (event, "order", at * 10, place.now // DAY % LEAVES))
        assert place.look() == 1
        writer.commit()
    # Its bucket was looked at, and it came late: its hour misses it.
    place.now += FINE
    place.booked(place.now)
    place.look()
    assert place.look() == 0
    place.booked(at, event)
    assert place.look() == 1


def test_rows_that_a_service_dated_days_ahead_or_back_are_left_out_on_both_sides(place: Place) -> None:
    today = place.now // DAY
    for at in (place.now + 2 * DAY + 5, place.now - 3 * DAY):
        place.booked(at, place.row(at, leaf=today))
    place.booked(place.now - 3, place.row(place.now - 3))
    assert place.look() == 1
    # Two days later: they lie in the leaf of the day on which they were written.
    later = add(place.books, {}, bucket=place.now + 2 * DAY + 500)
    place.now += 2 * DAY + 500
    assert place.look(later) == 1


def test_a_transaction_over_midnight_has_its_rows_in_the_leaf_of_the_day_before_and_is_counted(place: Place) -> None:
    at = place.now - 3
    place.booked(at, place.row(at, leaf=at // DAY - 1), place.row(at, leaf=at // DAY + 1))
    assert place.look() == 1


def test_days_that_may_have_been_emptied_are_not_compared(place: Place) -> None:
    old = place.now - 7 * DAY
    place.books = begin(old - HOUR)
    place.books = add(place.books, {("t", old): Sum(3, 7), ("t", old + 2): Sum(1, 1)}, bucket=old + 2)
    assert place.look() == 1
    assert place.look() == 1


def test_books_that_have_not_begun_say_nothing(place: Place) -> None:
    checkpoint = Checkpoint(1, 5, "me", "s", 1, "d", "slot", END)
    with open_session(place.endpoints.relay_dsn) as session:
        place.comparison.look(session, checkpoint)
    assert str(place.telemetry.registry.get_sample_value("dovetail_books_balanced")) == "nan"


def test_an_event_that_went_to_another_topic_than_its_route_names_is_not_lost(place: Place) -> None:
    at = place.now - 3
    place.booked(at, place.row(at), topic="renamed")
    place.booked(at, place.row(at, aggregatetype="no topic!"))
    assert place.look() == 1


def test_a_look_at_much_stops_in_time_and_the_next_goes_on_from_there(place: Place) -> None:
    with place.owner() as owner:
        owner.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, created_at)"
            " SELECT gen_random_uuid(), 'order', 'k', 'Placed', '', to_timestamp(n) FROM generate_series(%s, %s) AS n",
            (10 * (place.now - 2 * HOUR), 10 * (place.now - HOUR)),
        )
        rows = owner.execute("SELECT id, floor(extract(epoch FROM created_at) / 10)::bigint FROM dovetail.outbox")
        for event, at in rows.fetchall():
            place.booked(at, event)
    ticks = iter(range(10**9))
    place.comparison._clock = lambda: next(ticks) / 10.0
    place.comparison._width = 60
    looks = 0
    while str(place.look()) == "nan":
        looks += 1
        assert looks < 100
    assert looks > 3
    assert place.look() == 1


@pytest.mark.parametrize("query", ["books_sums", "unpublished"])
def test_what_waits_is_found_by_its_id_also_before_the_table_was_ever_analysed(place: Place, query: str) -> None:
    """Without statistics the index by relay seems as good as the one by id, and each look reads every parked row."""
    with place.owner() as owner:
        owner.execute("ALTER TABLE dovetail.parked SET (autovacuum_enabled = off)")
        for leaf in range(LEAVES):
            owner.execute(f"ALTER TABLE dovetail.outbox_{leaf} SET (autovacuum_enabled = off)")  # type: ignore[call-overload]
        day = place.now // DAY
        owner.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, created_at, bucket)"
            " SELECT gen_random_uuid(), 'order', 'k', 'Placed', '', to_timestamp(%s), %s"
            " FROM generate_series(1, 30000)",
            (place.now * 10, day % LEAVES),
        )
        owner.execute(
            "INSERT INTO dovetail.parked (relay, epoch, commit_lsn, index, hold_topic, hold_key, reason, message,"
            " state, id, aggregatetype, aggregateid, type, encoding, headers, created_us)"
            " SELECT 'dovetail', 1, '0/1', seq, 't', '', 'r', 'm',"
            " 'parked', id, 'order', 'k', 'Placed', 'avro', '{}', 0 FROM dovetail.outbox"
        )
        asked = {
            "relay": "dovetail", "snapshot": "1:1:", "start": place.now * 10, "end": place.now * 10 + 10,
            "leaves": [(day + more) % LEAVES for more in (-1, 0, 1)],
        }  # fmt: skip
        text = queries.get(query, "SELECT * FROM dovetail.unpublished(%(relay)s, 0, '1:1:')")
        plan = "\n".join(row[0] for row in owner.execute(f"EXPLAIN {text}", asked))  # type: ignore[call-overload]
    assert "Anti Join" in plan
    assert "parked_relay_epoch" not in plan
