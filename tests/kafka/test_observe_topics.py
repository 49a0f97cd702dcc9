"""What an operator's look at a topic sees while a relay writes to it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from dovetail_local.stack import Stack
from dovetail_relay.config import load
from dovetail_relay.observe.topics import topics_of
from support.waiting import wait_until


@contextmanager
def written_to_without_end(bootstrap_servers: str, topic: str) -> Iterator[None]:
    """One small transaction after another, as a relay at work makes them."""
    stop = threading.Event()
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": topic, "linger.ms": 0})
    producer.init_transactions(30)

    def write() -> None:
        while not stop.is_set():
            producer.begin_transaction()
            producer.produce(topic, b"value", b"key")
            producer.commit_transaction(30)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_reader_of_a_topic_that_grows_without_end_comes_to_its_end(stack: Stack) -> None:
    servers = stack.endpoints().bootstrap_servers
    topic = "busy-" + secrets.token_hex(4)
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    settings = load(None, {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": servers}, {"postgres.dsn": "host=nowhere"})
    with topics_of(settings) as topics, written_to_without_end(servers, topic):
        wait_until(lambda: topics.low_high(topic, 0)[1] > 100, 30, "fifty transactions are there")
        for _ in range(5):
            end = topics.low_high(topic, 0)[1]
            seen = [message.offset() or 0 for message in topics.read({(topic, 0): 0}, time.monotonic() + 20)]
            # Each second offset is a commit's marker; what came while it read may be there too.
            assert seen[: end // 2 - 1] == list(range(0, end - 2, 2))
