"""The ring on a real server: which leaf goes, which stays, and that nobody waits for anybody."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.retention import LEAVES, Kept, Now, Ring, Session, look, open_session
from support.outbox_database import outbox_database as tables

__all__ = ["tables"]

WINDOW = 7
ROW = (
    "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, bucket, created_at)"
    " VALUES (gen_random_uuid(), 'order', 'k', 'Placed', '', %s, to_timestamp(%s))"
)


class Place:
    """A database where it is the day `today` + 8: what is written now belongs to the leaf that is to be emptied."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.ring = Ring(relay="dovetail", retention_days=WINDOW)
        with self.owner() as owner:
            owner.execute("GRANT dovetail_relay TO relay")
            self.today = one(owner, "SELECT floor(date_part('epoch', now()))::bigint / 86400")
        self.later = self.today + LEAVES - 1

    def owner(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.endpoints.owner_dsn, autocommit=True)

    def writer(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """As the owner: a service may not choose the leaf."""
        return psycopg.connect(self.endpoints.owner_dsn, **options)

    def write(self, connection: psycopg.Connection[Any], day: int | None = None) -> None:
        """One event of a day."""
        day = self.today if day is None else day
        connection.execute(ROW, (day % LEAVES, day * 86_400 + 7))

    def tend(self, settled: int | None = None, *, ring: Ring | None = None, today: int | None = None) -> Kept:
        """A look of the housekeeping, at the horizon of this moment unless the test says another."""
        with open_session(self.endpoints.relay_dsn) as session:
            _, used = look(session)
            horizon = self.horizon() if settled is None else settled
            return (ring or self.ring).tend(session, horizon, Now(today or self.later, 60.0), used)

    def horizon(self) -> int:
        """What a relay that has published everything would vouch for."""
        with self.owner() as owner:
            return int(one(owner, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))

    def days(self) -> list[int]:
        """Leaves that hold rows."""
        with self.owner() as owner:
            return [row[0] for row in owner.execute("SELECT DISTINCT bucket FROM dovetail.outbox ORDER BY 1")]

    def written(self, *days: int) -> Place:
        with self.writer() as connection:
            for day in days:
                self.write(connection, day)
        return self


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return row[0]


@pytest.fixture
def place(tables: Endpoints) -> Place:
    return Place(tables)


# -- what goes and what stays -----------------------------------------------------------------------------------------


def test_a_leaf_beyond_the_window_and_below_the_horizon_goes_and_the_others_stay(place: Place) -> None:
    place.written(*range(place.today, place.later + 1))
    kept = place.tend()
    assert kept.emptied == (place.today,)
    assert kept.oldest_day == place.today + 1
    assert kept.overdue_seconds == 0
    assert len(place.days()) == LEAVES - 1


def test_no_day_inside_the_window_is_touched(place: Place) -> None:
    place.written(place.today)
    for day in range(place.today, place.later):
        kept = place.tend(today=day)
        assert (kept.emptied, kept.oldest_day, kept.overdue_seconds) == ((), place.today, 0)


def test_a_shorter_window_empties_earlier(place: Place) -> None:
    place.written(place.today, place.today + 1)
    ring = Ring(relay="dovetail", retention_days=2)
    assert place.tend(ring=ring, today=place.today + 2).emptied == ()
    assert place.tend(ring=ring, today=place.today + 3).emptied == (place.today,)


def test_a_row_that_is_not_published_yet_keeps_its_leaf(place: Place) -> None:
    unpublished = place.horizon()
    place.written(place.today)
    kept = place.tend(unpublished)
    assert (kept.emptied, kept.oldest_day, kept.overdue_seconds) == ((), place.today, 60)
    assert place.tend().emptied == (place.today,)


def test_a_transaction_that_is_still_open_keeps_its_leaf(place: Place) -> None:
    place.written(place.today)
    with place.writer() as writer:
        place.write(writer)
        assert place.tend().emptied == ()
        writer.commit()
        assert place.tend().emptied == (place.today,)


def test_a_prepared_transaction_keeps_its_leaf_until_it_is_decided(place: Place) -> None:
    place.written(place.today)
    with place.writer() as writer:
        name = uuid.uuid4().hex
        place.write(writer)
        writer.execute(f"PREPARE TRANSACTION '{name}'")
        writer.autocommit = True
        assert place.tend().emptied == ()
        writer.execute(f"COMMIT PREPARED '{name}'")
    assert place.tend().emptied == (place.today,)


def test_a_row_that_comes_after_the_leaf_was_closed_is_seen_under_the_lock(place: Place) -> None:
    with place.writer() as writer:
        # It began before the leaf was closed, and writes into it behind that.
        writer.execute("SELECT pg_current_xact_id()")
        place.written(place.today)
        assert place.tend().emptied == ()
        place.write(writer)
        # And one that began only now.
        place.written(place.today)
        writer.commit()
        closed_at = place.ring._closed[place.today].above
        assert place.tend(closed_at).emptied == ()
        assert len(place.days()) == 1
    assert place.tend().emptied == (place.today,)


def test_a_row_of_a_later_day_keeps_the_leaf_it_was_put_into(place: Place) -> None:
    place.written(place.today)
    with place.writer() as writer:
        writer.execute(ROW, (place.today % LEAVES, (place.today + 2) * 86_400))
    assert place.tend().emptied == ()


def test_a_transaction_over_midnight_and_a_time_that_is_none_do_not_keep_a_leaf(place: Place) -> None:
    with place.writer() as writer:
        writer.execute(ROW, (place.today % LEAVES, (place.today + 2) * 86_400 - 1))
        writer.execute(ROW, (place.today % LEAVES, 253_370_764_800))
    assert place.tend().emptied == (place.today,)


def test_another_relay_of_the_same_outbox_is_waited_for(place: Place) -> None:
    place.written(place.today)
    slot = "t" + uuid.uuid4().hex
    with place.owner() as owner, psycopg.connect(place.endpoints.superuser_dsn, autocommit=True) as superuser:
        superuser.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        owner.execute(
            "INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, publication_fingerprint)"
            " VALUES ('other', %s, '1', '0/1', 'f')", (slot,),
        )  # fmt: skip
        assert place.tend().emptied == ()  # it has never started, and may still read what was there before
        owner.execute("UPDATE dovetail.relay SET started_at = now()")
        place.ring = Ring(relay="dovetail", retention_days=WINDOW)
        place.written(place.today)
        assert place.tend().emptied == ()  # it has not come as far
        superuser.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        assert place.tend().emptied == (place.today,)
        superuser.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def test_an_empty_outbox_keeps_nothing_and_nothing_is_overdue(place: Place) -> None:
    assert place.tend() == Kept(None, 0.0, ())


# -- nobody waits -----------------------------------------------------------------------------------------------------


@contextmanager
def steadily(place: Place, day: int) -> Iterator[list[float]]:
    """A writer into one leaf that never stops and never waits for a lock over 50 ms; the times of its statements."""
    times: list[float] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with place.writer(autocommit=True) as connection:
                connection.execute("SET lock_timeout = '50ms'")
                while not stop.is_set():
                    started = time.monotonic()
                    # Taken back: a row that is there would be a reason by itself to leave the leaf alone.
                    with connection.transaction(force_rollback=True):
                        place.write(connection, day)
                    times.append(time.monotonic() - started)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.join(10)
        assert not failed, failed


def test_a_writer_in_another_leaf_neither_blocks_nor_is_blocked(place: Place) -> None:
    with place.writer() as open_one, steadily(place, place.today + 1) as times:
        place.write(open_one, place.today + 2)  # an open transaction in a third leaf
        emptied = 0
        for _ in range(20):
            place.written(place.today)
            horizon = place.horizon()
            # What the open transaction holds back is the horizon, and nothing else.
            assert place.tend(horizon).emptied == ()
            place.ring = Ring(relay="dovetail", retention_days=WINDOW)
            emptied += len(place.tend(2**62).emptied)
        assert emptied == 20
    assert len(times) > 20


@pytest.mark.parametrize("closed", [False, True], ids=["before it is closed", "once it is closed"])
def test_a_writer_in_the_leaf_means_later_and_keeps_nobody_waiting(place: Place, closed: bool) -> None:
    place.written(place.today)
    if closed:
        assert place.tend(0).emptied == ()
    with place.writer() as writer:
        place.write(writer)
        # Whoever waits for a lock here would make the second writer wait behind it, and that one has no patience.
        with steadily(place, place.today) as times:
            for _ in range(10):
                assert place.tend(2**62).emptied == ()
    assert len(times) > 10


def test_a_reader_of_the_leaf_means_later_too(place: Place) -> None:
    place.written(place.today)
    place.tend(0)
    with place.owner() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM dovetail.outbox")
        assert place.tend(2**62).emptied == ()
    assert place.tend().emptied == (place.today,)


def test_the_relay_may_empty_leaves_and_do_nothing_else_to_their_rows(place: Place) -> None:
    place.written(place.today)
    with psycopg.connect(place.endpoints.relay_dsn, autocommit=True) as relay:
        for statement in ("DELETE FROM dovetail.outbox", "UPDATE dovetail.outbox SET type = 'x'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                relay.execute(statement)


# -- what else is over ------------------------------------------------------------------------------------------------


def test_settled_messages_and_commands_beyond_the_window_go_and_the_audit_log_stays(place: Place) -> None:
    with place.owner() as owner:
        for state in ("parked", "discarded", "dead_lettered"):
            for relay, index in (("dovetail", 1), ("other", 2)):
                owner.execute(
                    "INSERT INTO dovetail.parked (relay, epoch, commit_lsn, index, hold_topic, hold_key, reason,"
                    " message, state, id, aggregatetype, aggregateid, type, encoding, headers, created_us)"
                    " VALUES (%s, 1, %s, %s, 't', '', 'r', 'm', %s, gen_random_uuid(), 'a', 'k', 't', 'avro', '{}', 1)",
                    (relay, f"0/{len(state)}", index, state),
                )
        for state, kind in (("done", "release"), ("pending", "discard"), ("failed", "recover")):
            owner.execute("INSERT INTO dovetail.command (relay, kind) VALUES ('dovetail', %s)", (kind,))
            owner.execute(
                "UPDATE dovetail.command SET state = %s, settled_at = CASE WHEN %s <> 'pending' THEN now() END"
                " WHERE kind = %s", (state, state, kind),
            )  # fmt: skip
        owner.execute("INSERT INTO dovetail.command_event SELECT id, 0, gen_random_uuid(), 0 FROM dovetail.command")
        owner.execute("INSERT INTO dovetail.audit_log (action, target) VALUES ('release', 'key')")
        left = (
            "SELECT (SELECT count(*) FROM dovetail.parked), (SELECT count(*) FROM dovetail.command),"
            " (SELECT count(*) FROM dovetail.command_event), (SELECT count(*) FROM dovetail.audit_log)"
        )
        assert forget(place, place.later) is True
        assert owner.execute(left).fetchone() == (6, 3, 3, 1)
        assert forget(place, place.later + 1) is True
        assert owner.execute(left).fetchone() == (4, 1, 1, 1)


def forget(place: Place, today: int) -> bool:
    session: Session
    with open_session(place.endpoints.relay_dsn) as session:
        return place.ring.forget(session, Now(today))
