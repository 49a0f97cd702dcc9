"""The consumer on a real broker and a real database: each effect once, nothing skipped."""

import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import confluent_kafka
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from dovetail import errors
from dovetail.kafka import Consumer
from dovetail_schemas.avro import frame
from dovetail_schemas.headers import format_time
from support.shop import PLACED, OrderPlaced
from support.waiting import wait_until

pytest_plugins = ["support.outbox_database"]

PARTITIONS = 2
TESTS = Path(__file__).parent.parent


def record(conn, delivery):
    conn.execute("INSERT INTO effect (what) VALUES (%s)", (str(delivery.event.order_id),))


class Shop:
    """One topic and the database of one consumer."""

    def __init__(self, endpoints):
        self.endpoints = endpoints
        self.topic = f"outbox.event.order-{secrets.token_hex(4)}"
        admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(20)
        self.producer = confluent_kafka.Producer({"bootstrap.servers": endpoints.bootstrap_servers})

    def send(self, *numbers, note="none", broken=False, type_name="OrderPlaced"):
        for number in numbers:
            headers = {
                "id": str(UUID(int=number + 1)),
                "type": type_name,
                "time": format_time(int(time.time() * 1_000_000)),
                "position": f"1/{number:016X}/0",
            }
            body = frame(PLACED.codec.schema_id, PLACED.codec.encode(OrderPlaced(number, note)))
            self.producer.produce(
                self.topic, body, str(number), partition=number % PARTITIONS, headers={} if broken else headers
            )
        assert self.producer.flush(20) == 0

    def consumer(self, handler=record, **options):
        options = {"group": "shipping", "patience_seconds": 20, **options}
        group = options.pop("group")
        kafka = {"bootstrap.servers": self.endpoints.bootstrap_servers, "group.id": f"{self.topic}-{group}"}
        kafka |= {"session.timeout.ms": 6000, **options.pop("kafka", {})}
        return Consumer(
            kafka,
            consumer="shipping",
            topics=[self.topic],
            database=self.endpoints.app_dsn,
            **{"handler": handler, "types": [OrderPlaced], **options},
        )

    def committed(self, group="shipping"):
        """How far the group has come, as a sum of offsets."""
        asking = confluent_kafka.Consumer(
            {"bootstrap.servers": self.endpoints.bootstrap_servers, "group.id": f"{self.topic}-{group}"}
        )
        parts = [confluent_kafka.TopicPartition(self.topic, number) for number in range(PARTITIONS)]
        try:
            return sum(max(part.offset, 0) for part in asking.committed(parts, timeout=20))
        finally:
            asking.close()


# A consumer that freezes inside its first handler, and ends by itself once it has gone on.
FROZEN = """
import sys, time
from dovetail.kafka import Consumer
from support.shop import OrderPlaced

servers, topic, dsn = sys.argv[1:]

def handle(conn, delivery):
    conn.execute("INSERT INTO effect (what) VALUES (%s)", (str(delivery.event.order_id),))
    print("inside", flush=True)
    began = time.monotonic()
    while time.monotonic() - began < 2:
        time.sleep(0.01)
    consumer.stop()

consumer = Consumer(
    {"bootstrap.servers": servers, "group.id": f"{topic}-shipping", "session.timeout.ms": 6000,
     "max.poll.interval.ms": 6000},
    consumer="shipping", topics=[topic], database=dsn, handler=handle, types=[OrderPlaced], patience_seconds=20,
)
consumer.run()
"""


@pytest.fixture
def shop(outbox_database):
    return Shop(outbox_database)


def effects(conn):
    return [int(row[0]) for row in conn.execute("SELECT what FROM effect ORDER BY id").fetchall()]


@contextmanager
def running(*consumers):
    """Run consumers beside the test; stop them at its end and raise what they raised."""
    raised = []

    def run(consumer):
        try:
            consumer.run()
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(consumer,)) for consumer in consumers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for consumer in consumers:
            consumer.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_each_event_takes_effect_once_and_offsets_follow(shop, conn):
    shop.send(*range(50))
    with running(shop.consumer()):
        wait_until(lambda: len(effects(conn)) == 50, 60, "all effects are there")
    assert sorted(effects(conn)) == list(range(50))
    assert shop.committed() == 50


def test_a_second_delivery_of_everything_changes_nothing(shop, conn):
    shop.send(*range(20))
    shop.send(*range(10))
    for group in ("one", "two"):
        with running(shop.consumer(group=group)):
            wait_until(lambda group=group: shop.committed(group) == 30, 60, f"group {group} has read everything")
    assert sorted(effects(conn)) == list(range(20))


def test_events_of_a_partition_keep_their_order(shop, conn):
    shop.send(*range(0, 400, 2))
    with running(shop.consumer(batch=7)):
        wait_until(lambda: len(effects(conn)) == 200, 60, "all effects are there")
    assert effects(conn) == list(range(0, 400, 2))


def test_row_67_a_message_that_keeps_failing_stops_the_consumer_and_nothing_is_skipped(shop, conn):
    def refuse_six(conn, delivery):
        record(conn, delivery)
        if delivery.event.order_id == 6:
            raise ValueError("no such customer")

    shop.send(*range(0, 20, 2))
    with pytest.raises(errors.HandlerFailed, match=r"\[0\]@3: ValueError: no such customer") as caught:
        shop.consumer(refuse_six, patience_seconds=0.5).run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert effects(conn) == [0, 2, 4]
    assert shop.committed() == 3
    with running(shop.consumer()):
        wait_until(lambda: len(effects(conn)) == 10, 60, "the rest is handled")
    assert effects(conn) == list(range(0, 20, 2))


def test_a_handler_that_fails_for_a_while_is_tried_again_without_a_second_effect(shop, conn):
    failures = [RuntimeError("a"), RuntimeError("b"), RuntimeError("c")]

    def fail_at_first(conn, delivery):
        record(conn, delivery)
        if delivery.event.order_id == 4 and failures:
            raise failures.pop()

    shop.send(*range(0, 10, 2))
    with running(shop.consumer(fail_at_first)):
        wait_until(lambda: len(effects(conn)) == 5, 60, "all effects are there")
    assert effects(conn) == [0, 2, 4, 6, 8]


def test_a_handler_that_swallows_a_database_error_loses_no_effect(shop, conn):
    left = [1, 1]

    def swallow(conn, delivery):
        record(conn, delivery)
        if left:
            left.pop()
            try:
                conn.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero:
                pass

    shop.send(0, 2)
    with running(shop.consumer(swallow)):
        wait_until(lambda: len(effects(conn)) == 2, 60, "both effects are there")
    assert effects(conn) == [0, 2]


def test_a_lost_database_connection_is_made_anew(shop, conn, outbox_database):
    def cut_once(conn, delivery):
        record(conn, delivery)
        if delivery.event.order_id == 2 and not cut:
            cut.append(1)
            with psycopg.connect(outbox_database.superuser_dsn, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))

    cut = []
    shop.send(*range(0, 10, 2))
    with running(shop.consumer(cut_once)):
        wait_until(lambda: len(effects(conn)) == 5, 60, "all effects are there")
    assert cut
    assert effects(conn) == [0, 2, 4, 6, 8]


def test_a_record_that_is_not_ours_stops_the_consumer_by_name(shop, conn):
    shop.send(0, 2)
    shop.send(4, broken=True)
    shop.send(6)
    with pytest.raises(errors.HandlerFailed, match=r"@2: BadMessage: .*the header 'id' is missing"):
        shop.consumer().run()
    assert effects(conn) == [0, 2]
    assert shop.committed() == 2


def test_events_of_an_aborted_transaction_are_not_seen(shop, conn):
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": shop.endpoints.bootstrap_servers, "transactional.id": shop.topic}
    )
    producer.init_transactions(20)
    plain, shop.producer = shop.producer, producer
    for numbers, end in (((0, 2), producer.abort_transaction), ((4, 6), producer.commit_transaction)):
        producer.begin_transaction()
        shop.send(*numbers)
        end(20)
    shop.producer = plain
    shop.send(8)
    with running(shop.consumer()):
        wait_until(lambda: 8 in effects(conn), 60, "the last event is there")
    assert effects(conn) == [4, 6, 8]


def test_members_come_and_go_and_each_effect_happens_once(shop, conn):
    shop.send(*range(100))
    with running(shop.consumer(batch=5)):
        wait_until(lambda: len(effects(conn)) >= 30, 60, "the first member works")
        with running(shop.consumer(batch=5)):
            shop.send(*range(100, 200))
            wait_until(lambda: len(effects(conn)) >= 150, 60, "both members work")
        shop.send(*range(200, 300))
        wait_until(lambda: len(effects(conn)) >= 300, 60, "the first member has taken over")
    found = effects(conn)
    assert sorted(found) == list(range(300))
    for part in range(PARTITIONS):
        assert [number for number in found if number % PARTITIONS == part] == list(range(part, 300, PARTITIONS))


def test_stop_before_run_and_twice_is_legal(shop):
    consumer = shop.consumer()
    consumer.stop()
    consumer.stop()
    consumer.run()


PROCESS = """
import signal, sys
from dovetail.kafka import Consumer
from support.shop import OrderPlaced

def handle(conn, delivery):
    conn.execute("INSERT INTO effect (what) VALUES (%s)", (str(delivery.event.order_id),))

bootstrap, group, topic, dsn = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "session.timeout.ms": 6000},
    consumer="shipping", topics=[topic], database=dsn, handler=handle, types=[OrderPlaced], batch=3)
signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
consumer.run()
"""


def test_a_frozen_consumer_holds_up_its_successor_no_longer_than_a_handler_may_take(shop, conn):
    shop.send(1, 2)
    frozen = subprocess.Popen(
        [sys.executable, "-c", FROZEN, shop.endpoints.bootstrap_servers, shop.topic, shop.endpoints.app_dsn], cwd=TESTS,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert frozen.stdout.readline() == "inside\n"
        frozen.send_signal(signal.SIGSTOP)
        with running(shop.consumer(kafka={"max.poll.interval.ms": 6000})):
            wait_until(lambda: sorted(effects(conn)) == [1, 2], 60, "the other one has taken over")
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(30) == 0, "it goes on without what it had in hand"
    finally:
        frozen.kill()
        frozen.wait()
        frozen.stdout.close()
    assert sorted(effects(conn)) == [1, 2]


def test_a_consumer_says_once_that_kafka_does_not_answer(shop, caplog, capfd):
    consumer = shop.consumer(kafka={"bootstrap.servers": "127.0.0.1:1"})
    with running(consumer):
        wait_until(lambda: "does not answer" in caplog.text, 20, "it says so")
    assert caplog.text.count("Kafka at 127.0.0.1:1 does not answer; waiting until it does") == 1
    assert "FAIL" not in capfd.readouterr().err


def test_a_killed_process_leaves_no_effect_undone_and_a_terminated_one_ends_well(shop, conn):
    arguments = [shop.endpoints.bootstrap_servers, f"{shop.topic}-shipping", shop.topic, shop.endpoints.app_dsn]

    def start():
        return subprocess.Popen([sys.executable, "-c", PROCESS, *arguments], cwd=TESTS)

    shop.send(*range(300))
    killed = start()
    try:
        wait_until(lambda: len(effects(conn)) >= 20, 60, "the first process works")
    finally:
        killed.kill()
        assert killed.wait(20) == -signal.SIGKILL
    assert len(effects(conn)) < 300
    second = start()
    try:
        wait_until(lambda: len(effects(conn)) == 300, 60, "the second process has done the rest")
    finally:
        second.terminate()
        assert second.wait(20) == 0
    assert sorted(effects(conn)) == list(range(300))
    assert shop.committed() == 300


def test_the_environment_and_the_types_say_what_a_consumer_is_not_told(shop, conn, monkeypatch):
    for name, value in shop.endpoints.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOVETAIL_KAFKA__SESSION_TIMEOUT_MS", "6000")
    monkeypatch.setenv("DOVETAIL_OUTBOX__TOPIC", shop.topic.replace("order", "{aggregatetype}"))
    consumer = Consumer(consumer=shop.topic)
    consumer.on(OrderPlaced)(record)
    shop.send(0, 2)
    with running(consumer):
        wait_until(lambda: effects(conn) == [0, 2], 60, "both effects are there")


def test_each_type_has_its_handler_and_what_nobody_handles_is_passed_over_without_a_receipt(shop, conn, owner):
    consumer = shop.consumer(types=[], handler=None)
    consumer.on(OrderPlaced)(record)
    shop.send(0, 2)
    shop.send(4, 6, type_name="OrderShipped")
    shop.send(8)
    with running(consumer):
        wait_until(lambda: shop.committed() == 5, 60, "everything is behind the consumer")
    assert effects(conn) == [0, 2, 8]
    assert owner.execute("SELECT count(*) FROM dovetail.inbox").fetchone() == (3,)


def test_a_general_handler_gets_what_has_none_of_its_own(shop, conn):
    consumer = shop.consumer(lambda conn, delivery: conn.execute("INSERT INTO effect (what) VALUES (-1)"))
    consumer.on(OrderPlaced)(record)
    shop.send(0)
    shop.send(2, type_name="OrderShipped")
    with running(consumer):
        wait_until(lambda: len(effects(conn)) == 2, 60, "both are handled")
    assert effects(conn) == [0, -1]
