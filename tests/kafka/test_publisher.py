"""The transactional publisher against a real broker: all or nothing, and what a dead predecessor left is ended."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from dovetail_local.stack import Stack
from dovetail_relay.nouns import Checkpoint, Lsn, Record
from dovetail_relay.publish.at_least_once import AtLeastOncePublisher
from dovetail_relay.publish.kafka import KafkaPublisher
from dovetail_relay.publish.port import Result
from support.waiting import wait_until

PARTITIONS = 3


class Place:
    """A topic for events and one for the checkpoint, and what a publisher needs to be told."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.name = "p" + secrets.token_hex(4)
        self.topic = f"{self.name}.events"
        self.checkpoints = f"{self.name}.checkpoint"
        self.steps: list[str] = []
        self._made: list[Any] = []
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        for topic, partitions, config in (
            (self.topic, PARTITIONS, {"max.message.bytes": "200000"}),
            (self.checkpoints, 1, {"cleanup.policy": "compact"}),
        ):
            self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result()

    def publisher(self, kind: type = KafkaPublisher, *, fenced: bool = True, **config: str) -> Any:
        made = kind(
            {"bootstrap.servers": self.bootstrap_servers, **config},
            transactional_id=self.name,
            checkpoint_topic=self.checkpoints,
            relay=self.name,
            on_step=self.steps.append,
            on_client_error=lambda _name: None,
        )
        self._made.append(made)
        if fenced:
            fence(made)
        return made

    def visible(self, topic: str | None = None, isolation: str = "read_committed") -> list[bytes]:
        """Values in the topic now, up to the last stable offset."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "visible",
                "isolation.level": isolation,
                "enable.partition.eof": True,
            }
        )
        partitions = PARTITIONS if topic is None else 1
        consumer.assign([TopicPartition(topic or self.topic, partition, 0) for partition in range(partitions)])
        values, ended = [], 0
        try:
            while ended < partitions:
                message = consumer.poll(10)
                assert message is not None
                if message.error() is None:
                    values.append(message.value())
                else:
                    ended += 1
        finally:
            consumer.close()
        return sorted(values)

    def close(self) -> None:
        for made in self._made:
            made.close()


def fence(publisher: Any) -> None:
    wait_until(lambda: publisher.fence(5.0), 30, "the predecessor is fenced")


@pytest.fixture
def place(stack: Stack) -> Iterator[Place]:
    made = Place(stack.endpoints().bootstrap_servers)
    yield made
    made.close()


def records(place: Place, *values: bytes, topic: str | None = None) -> list[Record]:
    return [Record(topic or place.topic, value, b"key-%d" % n, [("id", b"1")]) for n, value in enumerate(values)]


def checkpoint(seq: int = 1) -> Checkpoint:
    return Checkpoint(
        epoch=1, seq=seq, writer="w", system_id="s", timeline=1, database="d", slot="s", end_lsn=Lsn(seq * 100)
    )


def publish(publisher: Any, batch: list[Record], seq: int = 1) -> Any:
    """As the pipeline does: `send`, and `settle` only where that was well."""
    return publisher.send(batch) or publisher.settle(checkpoint(seq), write=True)


def test_events_and_checkpoint_become_visible_together(place: Place) -> None:
    publisher = place.publisher()
    assert publisher.send(records(place, b"a", b"b", b"c")) is None
    assert place.visible() == []
    outcome = publisher.settle(checkpoint(), write=True)
    assert (outcome.result, outcome.all_acknowledged) == (Result.COMMITTED, True)
    assert place.visible() == [b"a", b"b", b"c"]
    assert publisher.read(10) == checkpoint()


def test_the_checkpoint_is_produced_only_behind_the_flushed_events(place: Place) -> None:
    publish(place.publisher(), records(place, b"a"))
    steps = [step for step in place.steps if step not in {"fenced", "read"}]
    assert steps == ["begin", "half", "produced", "flushed", "checkpoint_produced", "checkpoint_flushed", "committed"]


def test_a_batch_without_events_carries_the_checkpoint(place: Place) -> None:
    publisher = place.publisher()
    assert publish(publisher, []).result is Result.COMMITTED
    assert publisher.read(10) == checkpoint()


def test_an_unfinished_transaction_of_a_dead_publisher_is_ended_by_the_next_fence(place: Place) -> None:
    dead = place.publisher()
    assert publish(dead, records(place, b"before")).result is Result.COMMITTED
    assert dead.send(records(place, b"never")) is None
    dead._live().flush(10)
    assert b"never" in place.visible(isolation="read_uncommitted")
    heir = place.publisher()
    assert heir.read(10) == checkpoint(1)
    assert publish(heir, records(place, b"after"), seq=2).result is Result.COMMITTED
    assert place.visible() == [b"after", b"before"]


@pytest.mark.parametrize("settled", [False, True])
def test_a_publisher_that_was_fenced_by_its_successor_can_neither_send_nor_commit(place: Place, settled: bool) -> None:
    zombie = place.publisher()
    if settled:
        publish(zombie, records(place, b"old"))
    assert zombie.send(records(place, b"zombie")) is None
    heir = place.publisher()
    assert publish(heir, records(place, b"heir"), seq=5).result is Result.COMMITTED
    outcome = zombie.settle(checkpoint(9), write=True)
    assert outcome.result is Result.UNKNOWN
    assert b"zombie" not in place.visible()
    assert heir.read(10) == checkpoint(5)


def test_after_a_bad_outcome_a_fence_makes_the_publisher_usable_again(place: Place) -> None:
    publisher = place.publisher()
    assert publish(publisher, records(place, b"x", topic="no-such-topic-here")).result is Result.UNKNOWN
    fence(publisher)
    assert publisher.read(10) is None
    assert publish(publisher, records(place, b"y")).result is Result.COMMITTED
    assert place.visible() == [b"y"]


BOTH = pytest.mark.parametrize("kind", [KafkaPublisher, AtLeastOncePublisher])


@BOTH
@pytest.mark.parametrize("place_in_batch", [0, 1, 2])
def test_a_record_beyond_the_clients_limit_is_refused_with_its_place(
    place: Place, kind: type, place_in_batch: int
) -> None:
    publisher = place.publisher(kind)
    values = [b"a", b"b"]
    values.insert(place_in_batch, b"x" * 1_100_000)
    outcome = publish(publisher, records(place, *values))
    assert outcome.result is Result.UNKNOWN
    assert [(r.topic, r.code, r.index) for r in outcome.refusals] == [
        (place.topic, "MSG_SIZE_TOO_LARGE", place_in_batch)
    ]


@BOTH
def test_a_record_beyond_the_topics_limit_is_refused_by_the_broker(place: Place, kind: type) -> None:
    publisher = place.publisher(kind)
    outcome = publish(publisher, records(place, b"a", b"x" * 300_000))
    assert outcome.result is Result.UNKNOWN
    assert not outcome.all_acknowledged
    assert {(refusal.topic, refusal.code) for refusal in outcome.refusals} == {(place.topic, "MSG_SIZE_TOO_LARGE")}


def test_a_missing_topic_has_no_partitions_and_is_not_made_by_asking(place: Place) -> None:
    publisher = place.publisher(fenced=False)
    missing = f"{place.name}.missing"
    assert publisher.partitions(place.topic, 10) == PARTITIONS
    assert publisher.partitions(missing, 10) is None
    assert missing not in place.admin.list_topics(timeout=5).topics


def test_five_thousand_records_go_out_in_one_transaction_in_the_order_of_their_keys(place: Place) -> None:
    publisher = place.publisher()
    batch = [Record(place.topic, b"%06d" % n, b"key-%d" % (n % 7), []) for n in range(5000)]
    assert publish(publisher, batch).result is Result.COMMITTED
    # A reader that comes between the commit and its markers sees what was there before.
    wait_until(lambda: len(place.visible()) == len(batch), 20, "the whole transaction is visible")
    assert place.visible() == [b"%06d" % n for n in range(5000)]


@BOTH
def test_closing_while_the_side_thread_waits_for_kafka_neither_waits_nor_crashes(place: Place, kind: type) -> None:
    publisher = kind(
        # Nobody listens there.
        {"bootstrap.servers": "127.0.0.1:1"},
        transactional_id=place.name,
        checkpoint_topic=place.checkpoints,
        relay=place.name,
        on_step=lambda _step: None,
        on_client_error=lambda _name: None,
    )
    for wait in (lambda: publisher.fence(3.0), lambda: publisher.read(3.0)):
        started = threading.Event()
        ended: list[object] = []
        thread = threading.Thread(target=_run, args=(wait, started, ended), daemon=True)
        thread.start()
        started.wait(5)
        if thread.is_alive():
            continue_at = time.monotonic() + 0.3
            wait_until(lambda moment=continue_at: time.monotonic() > moment, 5, "the thread is inside the client")
    began = time.monotonic()
    publisher.close()
    assert time.monotonic() - began < 1.5
    thread.join(10)
    assert not thread.is_alive()


def _run(wait: Callable[[], object], started: threading.Event, ended: list[object]) -> None:
    started.set()
    try:
        ended.append(wait())
    except Exception as error:
        ended.append(error)


# -- at least once ----------------------------------------------------------------------------------------------------


def test_at_least_once_delivers_before_the_checkpoint_is_written(place: Place) -> None:
    publisher = place.publisher(AtLeastOncePublisher)
    assert publisher.send(records(place, b"a", b"b")) is None
    assert publisher.settle(checkpoint(1), write=False).result is Result.DELIVERED
    assert place.visible() == [b"a", b"b"]
    assert publisher.read(10) is None
    assert publisher.send(records(place, b"c")) is None
    assert publisher.settle(checkpoint(2), write=True).result is Result.COMMITTED
    assert publisher.read(10) == checkpoint(2)
    assert place.visible() == [b"a", b"b", b"c"]


def test_at_least_once_keeps_its_producer_from_batch_to_batch(place: Place) -> None:
    publisher = place.publisher(AtLeastOncePublisher)
    producers = set()
    for _ in range(3):
        publisher.isolate(alone=False)
        assert publisher.send(records(place, b"a")) is None
        producers.add(publisher._events)
    assert len(producers) == 1
    publisher.isolate(alone=True)
    assert publisher._events is None


def test_a_zombie_at_least_once_cannot_write_its_checkpoint(place: Place) -> None:
    zombie = place.publisher(AtLeastOncePublisher)
    heir = place.publisher(AtLeastOncePublisher)
    assert publish(heir, records(place, b"heir"), seq=5).result is Result.COMMITTED
    assert zombie.send(records(place, b"zombie")) is None
    assert zombie.settle(checkpoint(9), write=True).result is Result.UNKNOWN
    assert heir.read(10) == checkpoint(5)


def test_the_two_modes_read_each_others_checkpoints(place: Place) -> None:
    assert publish(place.publisher(), records(place, b"a"), seq=1).result is Result.COMMITTED
    other = place.publisher(AtLeastOncePublisher)
    assert other.read(10) == checkpoint(1)
    assert publish(other, records(place, b"b"), seq=2).result is Result.COMMITTED
    assert place.publisher().read(10) == checkpoint(2)
