"""The replication stream against a real walsender: what comes out, what is confirmed, and when the slot is free."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from dovetail_local.endpoints import Endpoints
from dovetail_relay.decode import pgoutput
from dovetail_relay.errors import SlotLost, StreamEnded
from dovetail_relay.nouns import LSN_ZERO, Lsn, parse_lsn
from dovetail_relay.source.replication import KEEPALIVE, ReplicationStream, SlotBusy, connect
from support.waiting import wait_until


class Place:
    """A table, a publication and a slot, the last two with any name."""

    def __init__(self, endpoints: Endpoints, publication: str = "things", slot: str | None = None) -> None:
        self.endpoints = endpoints
        self.publication = publication
        self.slot = slot or "s" + secrets.token_hex(4)
        self.owner = psycopg.connect(endpoints.owner_dsn, autocommit=True)
        self.owner.execute("CREATE TABLE things (n bigint)")
        self.owner.execute(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE things WITH (publish = 'insert')").format(
                sql.Identifier(publication)
            )
        )
        with connect(endpoints.relay_dsn) as connection:
            connection.execute(sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput").format(sql.Identifier(self.slot)))
        self.streams: list[ReplicationStream] = []

    def stream(self, start: Lsn = LSN_ZERO, **options: object) -> ReplicationStream:
        made = ReplicationStream(
            connect(self.endpoints.relay_dsn),
            slot=self.slot,
            publication=self.publication,
            start=start,
            **options,  # type: ignore[arg-type]
        )
        self.streams.append(made)
        return made

    def slot_row(self) -> tuple[bool, Lsn]:
        row = self.owner.execute(
            "SELECT active, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (self.slot,)
        ).fetchone()
        assert row is not None
        return bool(row[0]), parse_lsn(row[1])

    def now(self) -> Lsn:
        row = self.owner.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.owner.close()


@pytest.fixture
def place(database: Endpoints) -> Iterator[Place]:
    made = Place(database)
    yield made
    made.close()


class Taken:
    """What was read: numbers of the rows, ends of the commits, positions of the keepalives."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.ends: list[Lsn] = []
        self.keepalives: list[Lsn] = []
        self.namespaces: set[str] = set()

    def take(self, stream: ReplicationStream) -> None:
        for frame in stream.read(100):
            body = frame[pgoutput.BODY :]
            if body[0] == pgoutput.INSERT:
                self.numbers.append(int.from_bytes(pgoutput.insert(frame)[0], "big"))
            elif body[0] == pgoutput.COMMIT:
                self.ends.append(pgoutput.commit(body).end_lsn)
            elif body[0] == pgoutput.RELATION:
                self.namespaces.add(pgoutput.relation(body).namespace)
            elif body[0] == KEEPALIVE:
                self.keepalives.append(Lsn(int.from_bytes(body[1:], "big")))
        stream.heartbeat()

    def until(self, stream: ReplicationStream, numbers: int = 0, ends: int = 0) -> Taken:
        def enough() -> bool:
            self.take(stream)
            return len(self.numbers) >= numbers and len(self.ends) >= ends

        wait_until(enough, 10, f"{numbers} rows and {ends} commits; so far {len(self.numbers)}, {len(self.ends)}")
        return self


def test_the_rows_of_a_copy_all_arrive_in_their_order(place: Place) -> None:
    stream = place.stream()
    with place.owner.cursor() as cursor, cursor.copy("COPY things FROM STDIN") as copy:
        for n in range(100):
            copy.write_row((n,))
    assert Taken().until(stream, 100, 1).numbers == list(range(100))


def test_what_was_rolled_back_never_streams(place: Place) -> None:
    stream = place.stream()
    with psycopg.connect(place.endpoints.owner_dsn) as connection:
        connection.execute("INSERT INTO things VALUES (1)")
        connection.rollback()
        connection.execute("INSERT INTO things VALUES (2)")
        connection.execute("SAVEPOINT inner_part")
        connection.execute("INSERT INTO things VALUES (3)")
        connection.execute("ROLLBACK TO inner_part")
        connection.execute("INSERT INTO things VALUES (4)")
    place.owner.execute("INSERT INTO things VALUES (5)")
    assert Taken().until(stream, 3, 2).numbers == [2, 4, 5]


def test_transactions_stream_whole_and_in_the_order_of_their_commits(place: Place) -> None:
    stream = place.stream()
    with psycopg.connect(place.endpoints.owner_dsn) as first, psycopg.connect(place.endpoints.owner_dsn) as second:
        for n in range(3):
            first.execute("INSERT INTO things VALUES (%s)", (10 + n,))
            second.execute("INSERT INTO things VALUES (%s)", (20 + n,))
        second.commit()
        first.commit()
    taken = Taken().until(stream, 6, 2)
    assert taken.numbers == [20, 21, 22, 10, 11, 12]
    assert taken.ends == sorted(taken.ends)


def test_the_server_is_told_what_was_reported_and_nothing_beyond(place: Place) -> None:
    _, before = place.slot_row()
    stream = place.stream()
    place.owner.execute("INSERT INTO things VALUES (1)")
    place.owner.execute("INSERT INTO things VALUES (2)")
    taken = Taken().until(stream, 2, 2)

    def told() -> bool:
        taken.take(stream)
        return stream.received >= taken.ends[1]

    wait_until(told, 10, "a keepalive says that all was sent")
    # Any amount of heartbeats reports nothing by itself.
    for _ in range(20):
        taken.take(stream)
    assert place.slot_row() == (True, before)
    stream.report(taken.ends[0])

    def confirmed() -> bool:
        taken.take(stream)
        return place.slot_row()[1] == taken.ends[0]

    wait_until(confirmed, 5, "the first commit is confirmed")
    with psycopg.connect(place.endpoints.superuser_dsn) as superuser:
        row = superuser.execute(
            "SELECT write_lsn::text, flush_lsn::text, replay_lsn::text FROM pg_stat_replication"
            " JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = %s",
            (place.slot,),
        ).fetchone()
    assert row is not None
    assert {parse_lsn(lsn) for lsn in row} == {taken.ends[0]}
    # It never goes back.
    stream.report(LSN_ZERO)
    for _ in range(20):
        taken.take(stream)
    assert place.slot_row()[1] == taken.ends[0]
    assert stream.confirmed == taken.ends[0]


def test_close_reports_what_is_durable_and_frees_the_slot_at_once(place: Place) -> None:
    stream = place.stream()
    place.owner.execute("INSERT INTO things VALUES (1)")
    taken = Taken().until(stream, 1, 1)
    stream.report(taken.ends[0])
    stream.close()
    stream.close()
    wait_until(lambda: place.slot_row() == (False, taken.ends[0]), 1, "the slot is free and confirmed")
    again = place.stream(taken.ends[0])
    place.owner.execute("INSERT INTO things VALUES (2)")
    assert Taken().until(again, 1, 1).numbers == [2]


def test_an_idle_slot_advances_by_report_alone(place: Place) -> None:
    _, before = place.slot_row()
    stream = place.stream()
    place.owner.execute("CREATE TABLE elsewhere AS SELECT n FROM generate_series(1, 1000) AS n")
    target = place.now()
    taken = Taken()

    def a_keepalive_passed_it() -> bool:
        place.owner.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")
        taken.take(stream)
        return bool(taken.keepalives) and taken.keepalives[-1] >= target

    wait_until(a_keepalive_passed_it, 20, "a keepalive names a position beyond the other table's rows")
    assert place.slot_row()[1] == before
    stream.report(taken.keepalives[-1])
    wait_until(lambda: (taken.take(stream), place.slot_row()[1] >= target)[1], 5, "the idle slot has advanced")


def test_a_server_that_asks_for_an_answer_gets_one(place: Place, database: Endpoints) -> None:
    # The walsender asks after half of wal_sender_timeout and ends the stream after the whole of it.
    connection = psycopg.connect(
        database.relay_dsn, autocommit=True, replication="database", options="-c wal_sender_timeout=1s"
    )
    stream = ReplicationStream(connection, slot=place.slot, publication=place.publication, start=LSN_ZERO)
    place.streams.append(stream)
    taken = Taken()
    for n in range(4):
        wait_until(lambda n=n: (taken.take(stream), len(taken.keepalives) > n)[1], 5, "the server has asked")
    place.owner.execute("INSERT INTO things VALUES (1)")
    assert taken.until(stream, 1, 1).numbers == [1]


def test_a_silent_server_is_asked_for_a_word(place: Place) -> None:
    now = [1000.0]
    stream = place.stream(clock=lambda: now[0])
    taken = Taken()
    taken.take(stream)
    for _ in range(3):
        before = len(taken.keepalives)
        now[0] += 11
        wait_until(lambda n=before: (taken.take(stream), len(taken.keepalives) > n)[1], 5, "the server has answered")


def test_a_slot_in_use_is_slot_busy_and_a_missing_one_slot_lost(place: Place) -> None:
    place.stream()
    with pytest.raises(SlotBusy):
        place.stream()
    place.slot = "no_such_slot"
    with pytest.raises(SlotLost):
        place.stream()


def test_a_terminated_walsender_is_stream_ended(place: Place) -> None:
    stream = place.stream()
    with psycopg.connect(place.endpoints.superuser_dsn, autocommit=True) as superuser:
        superuser.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (place.slot,)
        )

    def has_ended() -> bool:
        try:
            Taken().take(stream)
        except StreamEnded:
            return True
        return False

    wait_until(has_ended, 5, "the end of the stream is told")


def test_another_schemas_table_of_the_same_name_comes_under_its_own_schema(place: Place) -> None:
    stream = place.stream()
    place.owner.execute("CREATE SCHEMA other")
    place.owner.execute("CREATE TABLE other.things (n bigint)")
    place.owner.execute("INSERT INTO other.things VALUES (1)")
    place.owner.execute("INSERT INTO things VALUES (2)")
    assert Taken().until(stream, 1, 1).numbers == [2]
    place.owner.execute("ALTER PUBLICATION things ADD TABLE other.things")
    place.owner.execute("INSERT INTO other.things VALUES (3)")
    taken = Taken().until(stream, 1, 1)
    assert (taken.numbers, taken.namespaces) == ([3], {"other"})


ODD = ["with space", "Upper", "quote'd", 'double"quote', "back\\slash", "semi;colon--", "ünïcode", "a,b"]


@pytest.mark.parametrize("publication", ODD)
def test_a_publication_with_an_odd_name_streams(database: Endpoints, publication: str) -> None:
    place = Place(database, publication)
    stream = place.stream()
    place.owner.execute("INSERT INTO things VALUES (7)")
    assert Taken().until(stream, 1, 1).numbers == [7]
    place.close()


def test_a_slot_name_that_needs_quotes_streams(database: Endpoints) -> None:
    place = Place(database, slot=f"9select_{os.getpid()}")
    stream = place.stream()
    place.owner.execute("INSERT INTO things VALUES (7)")
    assert Taken().until(stream, 1, 1).numbers == [7]
    place.close()


def test_a_read_takes_no_more_than_it_was_asked_for_and_loses_nothing(place: Place) -> None:
    stream = place.stream()
    place.owner.execute("INSERT INTO things SELECT n FROM generate_series(0, 999) AS n")
    numbers: list[int] = []

    def all_are_here() -> bool:
        frames = stream.read(7)
        assert len(frames) <= 7
        numbers.extend(
            int.from_bytes(pgoutput.insert(frame)[0], "big")
            for frame in frames
            if frame[pgoutput.BODY] == pgoutput.INSERT
        )
        return len(numbers) >= 1000

    wait_until(all_are_here, 20, "a thousand rows")
    assert numbers == list(range(1000))
