"""Reading the checkpoint back: always the newest that is committed, whatever else the topic holds."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from dovetail_local.stack import Stack
from dovetail_relay.books import add, begin
from dovetail_relay.errors import CheckpointLost, KafkaUnavailable
from dovetail_relay.nouns import Checkpoint, CommandStep, Lsn, Part, Sum
from dovetail_relay.publish.checkpoint import CheckpointReader, decode, encode
from support.waiting import wait_until

FULL = Checkpoint(
    epoch=3,
    seq=12,
    writer="me",
    system_id="7401234567890123456",
    timeline=2,
    database="shöp",
    slot="dovetail",
    end_lsn=Lsn(0x16_B374_D848),
    part=Part(Lsn(0xFFFF_FFFF_FFFF_FFFF), 7),
    backfill=9,
    horizon=1 << 40,
    parked_lsn=Lsn(1),
    command=CommandStep(1, 2),
    books=add(begin(1), {("a", 1): Sum(1, 5), ("a", 3): Sum(2, 2**128 - 1)}, bucket=3),
)
PLAIN = replace(FULL, part=None, backfill=None, command=None, books=None)
KEY = b"relay"


class Topic:
    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.name = "c" + secrets.token_hex(4)
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        config = {
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.001",
            "max.compaction.lag.ms": "100",
        }
        self.admin.create_topics([NewTopic(self.name, 1, 1, config=config)])[self.name].result()
        # Three brokers that have just come up take a while to agree on who leads a new partition.
        wait_until(self._is_led, 30, f"{self.name} has a leader")
        self._reader: CheckpointReader | None = None

    def _is_led(self) -> bool:
        found = self.admin.list_topics(self.name, timeout=10).topics[self.name]
        return found.error is None and all(partition.leader >= 0 for partition in found.partitions.values())

    def read(self, timeout: float = 10.0) -> Checkpoint | None:
        if self._reader is None:
            self._reader = CheckpointReader({"bootstrap.servers": self.bootstrap_servers}, self.name, KEY)
        return self._reader.read(timeout)

    def producer(self, transactional_id: str | None = None) -> Producer:
        config: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers, "linger.ms": 0}
        if transactional_id is not None:
            config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 10_000}
        made = Producer(config)
        if transactional_id is not None:
            made.init_transactions(20)
        return made

    def put(self, *values: bytes | None, key: bytes = KEY) -> None:
        producer = self.producer()
        for value in values:
            producer.produce(self.name, value, key)
        assert producer.flush(20) == 0

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


@pytest.fixture
def topic(stack: Stack) -> Iterator[Topic]:
    made = Topic(stack.endpoints().bootstrap_servers)
    yield made
    made.close()


@pytest.mark.parametrize("checkpoint", [FULL, PLAIN])
def test_a_checkpoint_is_read_back_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert decode(encode(checkpoint)) == checkpoint


@pytest.mark.parametrize("field", sorted(json.loads(encode(FULL))))
@pytest.mark.parametrize("value", ["nothing", None, [], {}, "x", -1, True, 1.5, "1/2/3", 10**30])
def test_a_field_that_is_missing_or_odd_is_a_checkpoint_or_checkpoint_lost(field: str, value: object) -> None:
    found = json.loads(encode(FULL))
    if value == "nothing":
        del found[field]
    else:
        found[field] = value
    try:
        decode(json.dumps(found).encode())
    except CheckpointLost:
        return
    assert value != "nothing"


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b'"x"', b"1", b"\xff", b"{", b"{}", b"NaN", b"[" * 100_000, b'{"version":1}', b"9" * 5000],
    ids=lambda data: data[:12].decode(errors="replace"),
)
def test_any_other_bytes_are_checkpoint_lost(data: bytes) -> None:
    with pytest.raises(CheckpointLost):
        decode(data)


def test_an_empty_topic_has_no_checkpoint(topic: Topic) -> None:
    assert topic.read() is None


def test_a_missing_topic_is_checkpoint_lost(stack: Stack) -> None:
    reader = CheckpointReader({"bootstrap.servers": stack.endpoints().bootstrap_servers}, "no-such-topic", KEY)
    with pytest.raises(CheckpointLost):
        reader.read(5)
    reader.close()


def test_a_broker_that_does_not_answer_is_kafka_unavailable() -> None:
    reader = CheckpointReader({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, "topic", KEY)
    with pytest.raises(KafkaUnavailable):
        reader.read(1)
    reader.close()


def test_the_newest_of_many_is_read_behind_any_number_of_others(topic: Topic) -> None:
    topic.put(encode(PLAIN), encode(FULL))
    topic.put(*[b"somebody else's"] * 3000, key=b"other")
    assert topic.read() == FULL


def test_control_records_and_aborted_checkpoints_at_the_end_are_passed_over(topic: Topic) -> None:
    producer = topic.producer(f"{topic.name}.tx")
    producer.begin_transaction()
    producer.produce(topic.name, encode(PLAIN), KEY)
    producer.commit_transaction(20)
    for _ in range(5):
        producer.begin_transaction()
        producer.produce(topic.name, encode(FULL), KEY)
        producer.flush(10)
        producer.abort_transaction(20)
    assert topic.read() == PLAIN


def test_only_control_records_and_strangers_are_no_checkpoint(topic: Topic) -> None:
    topic.put(b"x", key=b"other")
    producer = topic.producer(f"{topic.name}.tx")
    producer.begin_transaction()
    producer.produce(topic.name, encode(FULL), KEY)
    producer.flush(10)
    producer.abort_transaction(20)
    assert topic.read() is None


def test_an_open_transaction_below_the_high_watermark_is_waited_for_and_never_passed_over(topic: Topic) -> None:
    topic.put(encode(PLAIN))
    producer = topic.producer(f"{topic.name}.tx")
    producer.begin_transaction()
    producer.produce(topic.name, encode(FULL), KEY)
    producer.flush(10)
    with pytest.raises(KafkaUnavailable, match="held back by an open transaction"):
        topic.read(1.5)
    producer.commit_transaction(20)
    assert topic.read() == FULL


def test_a_compacted_topic_still_has_the_newest(topic: Topic) -> None:
    from confluent_kafka import Consumer, TopicPartition

    for seq in range(60):
        topic.put(encode(replace(PLAIN, seq=seq)))
    assert topic.read() == replace(PLAIN, seq=59)
    consumer = Consumer({"bootstrap.servers": topic.bootstrap_servers, "group.id": "low"})
    try:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic.name, 0), timeout=5)
    finally:
        consumer.close()
    assert high == 60


def test_a_tombstone_is_no_checkpoint(topic: Topic) -> None:
    topic.put(encode(PLAIN), None)
    assert topic.read() == PLAIN


def test_a_topic_made_anew_while_the_reader_lives_has_no_checkpoint(topic: Topic) -> None:
    topic.put(encode(PLAIN))
    assert topic.read() == PLAIN
    topic.admin.delete_topics([topic.name])[topic.name].result()
    wait_until(lambda: topic.name not in topic.admin.list_topics(timeout=5).topics, 10, "deleted")
    topic.admin.create_topics([NewTopic(topic.name, 1, 1)])[topic.name].result()
    wait_until(lambda: topic.name in topic.admin.list_topics(timeout=5).topics, 10, "made again")

    def reads_nothing() -> bool:
        try:
            return topic.read() is None
        except (KafkaUnavailable, CheckpointLost):
            return False

    wait_until(reads_nothing, 20, "nothing is read")
