"""Each event is taken once, whatever the transaction around it does."""

import threading
import time
from uuid import UUID

import psycopg
import pytest

from dovetail import errors
from dovetail.psycopg import AsyncInbox, Inbox
from dovetail_schemas.avro import Codec, frame
from dovetail_schemas.headers import format_time
from support.messages import FakeMessage
from support.shop import PLACED, OrderPlaced
from support.waiting import wait_until

pytest_plugins = ["support.outbox_database"]

inbox = Inbox(consumer="shipping", types=[OrderPlaced])


def message(number=7, *, at=None, codec=PLACED.codec, payload=None):
    moment = format_time(int((time.time() if at is None else at) * 1_000_000))
    headers = [
        ("id", str(UUID(int=number)).encode()),
        ("type", b"OrderPlaced"),
        ("time", moment.encode()),
        ("position", b"1/0000000000000001/0"),
    ]
    body = frame(codec.schema_id, codec.encode({"order_id": number} if payload is None else payload))
    return FakeMessage(value=body, key=str(number).encode(), headers=headers)


def take(conn, given, box=inbox):
    """Take a message with its effect in one transaction, and say whether it was fresh."""
    with conn.transaction(), box.receive(conn, given) as delivery:
        if delivery.fresh:
            conn.execute("INSERT INTO effect (what) VALUES (%s)", (str(delivery.event.order_id),))
        return delivery.fresh


def effects(conn):
    return [row[0] for row in conn.execute("SELECT what FROM effect ORDER BY id").fetchall()]


def test_the_second_delivery_of_an_event_is_not_fresh_and_fails_nothing(conn):
    assert [take(conn, message()) for _ in range(3)] == [True, False, False]
    assert effects(conn) == ["7"]


@pytest.mark.parametrize(("default", "inside"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_receipt_survives_a_crash_of_the_server_whatever_the_default_is(conn, default, inside):
    conn.execute(f"SET synchronous_commit = {default}")
    with conn.transaction(), inbox.receive(conn, message()):
        assert conn.execute("SHOW synchronous_commit").fetchone() == (inside,)
    assert conn.execute("SHOW synchronous_commit").fetchone() == (default,)


def test_a_duplicate_leaves_the_transaction_usable(conn):
    take(conn, message())
    with conn.transaction():
        with inbox.receive(conn, message()) as delivery:
            assert not delivery.fresh
        conn.execute("INSERT INTO effect (what) VALUES ('after')")
    assert effects(conn) == ["7", "after"]


def test_the_same_event_twice_in_one_transaction_is_fresh_once(conn):
    with conn.transaction():
        with inbox.receive(conn, message()) as first, inbox.receive(conn, message()) as second:
            assert (first.fresh, second.fresh) == (True, False)


def test_a_receipt_rolls_back_with_its_effect(conn):
    with pytest.raises(ZeroDivisionError), conn.transaction(), inbox.receive(conn, message()):
        raise ZeroDivisionError
    assert take(conn, message())


def test_two_consumers_each_take_the_event(conn):
    assert take(conn, message())
    assert take(conn, message(), Inbox(consumer="billing", types=[OrderPlaced]))


def test_a_second_consumer_process_waits_for_the_first_and_then_knows(outbox_database, conn):
    fresh = []

    def other():
        with psycopg.connect(outbox_database.app_dsn, autocommit=True) as second:
            fresh.append(take(second, message()))

    thread = threading.Thread(target=other)
    with conn.transaction(), inbox.receive(conn, message()) as delivery:
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: conn.execute(waits).fetchone()[0] > 0, 10, "the second consumer waits")
        assert delivery.fresh
    thread.join()
    assert fresh == [False]


def test_receiving_outside_a_transaction_is_refused(conn):
    with (
        pytest.raises(errors.InboxNotInTransaction, match=r"with conn\.transaction\(\)"),
        inbox.receive(conn, message()),
    ):
        pass
    assert take(conn, message())


def test_row_66_an_event_older_than_the_window_is_refused_and_nothing_is_written(conn, owner):
    with (
        pytest.raises(errors.EventTooOld),
        conn.transaction(),
        inbox.receive(conn, message(at=time.time() - 8 * 86400)),
    ):
        pass
    with (
        pytest.raises(errors.EventFromFuture),
        conn.transaction(),
        inbox.receive(conn, message(at=time.time() + 2 * 86400)),
    ):
        pass
    assert owner.execute("SELECT count(*) FROM dovetail.inbox").fetchone() == (0,)


def test_a_duplicate_is_known_after_midnight_because_the_day_is_the_events_own(outbox_database, conn):
    written = 1_800_057_599.5
    assert written // 86400 + 1 == (written + 1) // 86400
    for seconds, fresh in ((0.2, True), (1, False), (7 * 86400 - 1, False)):
        box = Inbox(consumer="shipping", types=[OrderPlaced], clock=lambda now=written + seconds: now)
        assert take(conn, message(at=written), box) is fresh


def test_a_handler_that_swallows_a_database_error_is_found_out(conn):
    with pytest.raises(errors.TransactionFailed, match="swallowed"), conn.transaction():
        with inbox.receive(conn, message()):
            try:
                conn.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero:
                pass
    assert take(conn, message())


def test_an_event_is_decoded_only_when_it_is_read(conn):
    broken = FakeMessage(value=b"junk", key=None, headers=message().headers())
    with conn.transaction(), inbox.receive(conn, broken) as delivery:
        assert delivery.fresh
        assert delivery.type == "OrderPlaced"
        with pytest.raises(errors.BadFraming):
            _ = delivery.event


class Slow:
    """Schemas that say on which thread they were asked."""

    def __init__(self, codec):
        self.codec_found = codec
        self.threads = []

    def codec(self, schema_id):
        assert schema_id == self.codec_found.schema_id
        self.threads.append(threading.current_thread())
        return self.codec_found


async def test_the_async_inbox_takes_once_and_fetches_schemas_off_the_loop(outbox_database):
    old = Codec({"type": "record", "name": "OrderPlaced", "fields": [{"name": "order_id", "type": "int"}]})
    schemas = Slow(old)
    box = AsyncInbox(consumer="shipping", types=[OrderPlaced], schemas=schemas)
    fresh = []
    async with await psycopg.AsyncConnection.connect(outbox_database.app_dsn, autocommit=True) as conn:
        with pytest.raises(errors.InboxNotInTransaction):
            async with box.receive(conn, message()):
                pass
        for _ in range(2):
            async with conn.transaction(), box.receive(conn, message(codec=old)) as delivery:
                fresh.append(delivery.fresh)
                assert delivery.event == OrderPlaced(7)
    assert fresh == [True, False]
    assert schemas.threads[0] is not threading.main_thread()
