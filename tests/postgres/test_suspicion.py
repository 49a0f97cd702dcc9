"""The search for a row that ends the relay's process: what it notes, whom it blames, and whom it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.nouns import Checkpoint, Lsn, Place
from dovetail_relay.source.lead import LockSession
from dovetail_relay.suspicion import AT_ALL, IN_HAND, MANY_STARTS, Suspicion
from support.outbox_database import outbox_database
from support.roles import admit_logins

__all__ = ["outbox_database"]

AHEAD = 100
HERE = Checkpoint(
    epoch=1, seq=7, writer="me", system_id="sys", timeline=1, database="shop", slot="searched", end_lsn=Lsn(1000)
)
ROW, NEXT = Place(Lsn(2000), 0), Place(Lsn(2000), 1)


@pytest.fixture
def session(outbox_database: Endpoints) -> Iterator[LockSession]:
    admit_logins(outbox_database)
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, snapshot, epoch,"
            " publication_fingerprint) VALUES ('searched', 'searched', 'x', '0/0', '1:1:', 1, 'f')"
        )
    with_lock = LockSession(outbox_database.relay_dsn, slot="searched", relay="searched")
    yield with_lock
    with_lock.close()


def at(lsn: int) -> Checkpoint:
    return replace(HERE, end_lsn=Lsn(lsn))


def process(session: LockSession, durable: Checkpoint = HERE) -> Suspicion:
    begun = Suspicion(session, "searched")
    begun.begin(durable, rows_ahead=AHEAD)
    return begun


def search(session: LockSession) -> None:
    for _ in range(MANY_STARTS - 1):
        assert not process(session).careful


def test_the_fifth_process_that_begins_at_one_place_takes_rows_one_by_one(session: LockSession) -> None:
    search(session)
    assert process(session).careful


def test_processes_that_come_on_search_for_nothing(session: LockSession) -> None:
    for step in range(3 * MANY_STARTS):
        assert not process(session, at(1000 + step)).careful


def test_a_row_is_to_blame_once_three_processes_ended_while_they_had_it_in_hand(session: LockSession) -> None:
    search(session)
    for _ in range(IN_HAND):
        one = process(session)
        assert one.feared is None
        one.before_each(ROW)
    assert process(session).feared == ROW


def test_a_row_that_one_process_takes_twice_has_ended_it_once(session: LockSession) -> None:
    """Its batch was given up, and it streams again."""
    search(session)
    for _ in range(IN_HAND - 1):
        one = process(session)
        for _ in range(IN_HAND):
            one.before_each(ROW)
    assert process(session).feared is None


def test_a_row_that_one_process_hands_over_twice_has_lived_once(session: LockSession) -> None:
    search(session)
    process(session).before_each(ROW)
    for _ in range(IN_HAND - 1):
        one = process(session)
        one.before_each(ROW)
        for _ in range(IN_HAND):
            one.before_each(ROW)
            one.handed_over()
    for _ in range(IN_HAND - 1):
        one = process(session)
        assert one.feared is None
        one.before_each(ROW)
    assert process(session).feared == ROW


def test_a_row_that_is_to_blame_stays_so_until_the_batch_that_parks_it_has_committed(session: LockSession) -> None:
    search(session)
    for _ in range(IN_HAND):
        process(session).before_each(ROW)
    for _ in range(2):
        one = process(session)
        assert one.feared == ROW
        one.before_each(ROW)
        one.handed_over()


def test_a_row_that_kafka_had_is_to_blame_once_eight_processes_ended_at_it(session: LockSession) -> None:
    search(session)
    for _ in range(AT_ALL):
        one = process(session)
        assert one.feared is None
        one.before_each(ROW)
        one.handed_over()
    assert process(session).feared == ROW


def test_kills_at_one_row_that_are_not_one_after_the_other_blame_nobody(session: LockSession) -> None:
    search(session)
    for _ in range(AT_ALL):
        for place in (ROW, NEXT):
            one = process(session)
            assert one.feared is None
            one.before_each(place)
    assert process(session).feared is None


def test_a_search_goes_on_where_the_process_before_was_killed(session: LockSession) -> None:
    search(session)
    looked_at = 0
    while (one := process(session, at(1000 + looked_at))).careful:
        for _ in range(30):
            if one.goes_on():
                one.before_each(Place(Lsn(5000 + looked_at), 0))
                looked_at += 1
        one.look(at(9000))
        assert looked_at < 2 * AHEAD
    # Each of the four processes looked once more at the row that was the last of the one before.
    assert looked_at == AHEAD + 3
    assert not process(session, HERE).careful


def test_the_last_row_of_the_search_is_searched_as_long_as_processes_end_at_it(session: LockSession) -> None:
    search(session)
    one = process(session)
    for nth in range(AHEAD):
        assert one.goes_on()
        one.before_each(Place(Lsn(7000), nth))
    for _ in range(IN_HAND - 1):
        one = process(session, at(7000))
        assert one.careful
        assert one.feared is None
        one.before_each(Place(Lsn(7000), AHEAD - 1))
        one.look(at(9000))
    assert process(session).feared == Place(Lsn(7000), AHEAD - 1)


def test_an_end_in_order_takes_the_notes_back(session: LockSession) -> None:
    search(session)
    one = process(session)
    one.before_each(ROW)
    one.acquit()
    again = process(session)
    assert not again.careful
    assert again.feared is None


def test_the_place_where_nothing_was_published_yet_counts_as_well(session: LockSession) -> None:
    nowhere = at(0)
    for _ in range(MANY_STARTS - 1):
        assert not process(session, nowhere).careful
    assert process(session, nowhere).careful
