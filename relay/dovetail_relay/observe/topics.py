"""Kafka's side: consumers that belong to no group, commit nothing and see only what is committed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from dovetail_relay.config import Settings, kafka_properties, scrubbed
from dovetail_relay.errors import CheckpointLost, Misconfigured, ServerUnreachable
from dovetail_relay.observe.facts import KafkaSide
from dovetail_relay.publish.checkpoint import decode
from dovetail_relay.publish.refusals import bad_property

# A broker that is there answers in a fraction of it; nobody wants to wait longer for "Kafka is down".
TIMEOUT_SECONDS: Final = 5.0
_AT_ONCE: Final = 1000
_POLL_SECONDS: Final = 0.1
# The checkpoint is nearly always among the last records; each further step looks ten times as far back.
_TAIL: Final = 200
_LOGIN: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_REFUSED: Final = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})

Place = tuple[str, int]


class Topics:
    """One consumer. Not thread-safe. What Kafka refuses or does not answer comes out as ServerUnreachable or named."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_trouble: Callable[[str], None] = lambda _text: None,
        isolation: str = "read_committed",
    ) -> None:
        self._brokers = settings.kafka.bootstrap_servers
        self._said: list[str] = []
        self._on_trouble = on_trouble
        properties: dict[str, Any] = {
            **kafka_properties(settings),
            # The client demands a name; no group is ever joined under it.
            "group.id": f"dovetail.look.{settings.relay.name}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
            # What is fetched ahead: enough to keep a reader busy, and no more memory than that.
            "queued.max.messages.kbytes": 16_384,
            # The end of a partition is told by a fetch that found nothing, and that is what a look waits for.
            "fetch.wait.max.ms": 50,
            "error_cb": self._trouble,
            # Properties that are only a producer's are warned of on stderr otherwise.
            "log_level": 0,
        }
        try:
            self._consumer = Consumer(properties)
        except KafkaException as error:
            raise bad_property(error) from error

    def partitions(self) -> dict[str, int]:
        """topic → partitions, of all topics that we may see."""
        with self._named():
            metadata = self._consumer.list_topics(timeout=TIMEOUT_SECONDS)
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}

    def offsets_at(self, places: Sequence[Place], seconds: float) -> dict[Place, int]:
        """The first offset at or after a time (Unix seconds), the end where nothing is that new."""
        asked = [TopicPartition(topic, partition, max(0, int(seconds * 1000))) for topic, partition in places]
        with self._named():
            found = self._consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS)
            return {
                (place.topic, place.partition): place.offset if place.offset >= 0 else self._high(place)
                for place in found
            }

    def read(self, starts: Mapping[Place, int], deadline: float) -> Iterator[Message]:
        """Committed records from `starts` to the end that each partition has when its first one comes, and some more.

        A relay at work writes on and on: who waits to be told of the end may wait for ever. Raises TimeoutError when
        the deadline (monotonic) comes first.
        """
        open_ends, ends = set(starts), dict[Place, int]()
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in starts.items()])
        try:
            while open_ends:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for message in self._batch(min(left, _POLL_SECONDS)):
                    error = message.error()
                    place = (message.topic() or "", message.partition() or 0)
                    if error is None:
                        yield message
                        if place not in ends:
                            ends[place] = self._seen_end(place)
                        if (message.offset() or 0) + 1 >= ends[place]:
                            open_ends.discard(place)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_ends.discard(place)
        finally:
            self._consumer.unassign()

    def _seen_end(self, place: Place) -> int:
        """The partition's high watermark as the newest fetch told it."""
        _low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return high if high >= 0 else sys.maxsize

    def read_up_to(self, starts: Mapping[Place, int], ends: Mapping[Place, int]) -> Iterator[list[Message]]:
        """Committed records from `starts` to `ends` as they come; an empty list whenever there was none for a moment.

        Unlike `read` it waits for whoever has a transaction open before an end: what is behind it may be committed.
        """
        left = {place: end for place, end in ends.items() if starts[place] < end}
        self._consumer.assign([TopicPartition(*place, starts[place]) for place in left])
        try:
            while left:
                found: list[Message] = []
                for message in self._batch(_POLL_SECONDS):
                    place = (message.topic() or "", message.partition() or 0)
                    error, at = message.error(), message.offset() or 0
                    if error is None:
                        found.append(message)
                        at += 1
                    elif error.code() != KafkaError._PARTITION_EOF:
                        continue
                    if at >= left.get(place, at + 1):
                        del left[place]
                yield found
        finally:
            self._consumer.unassign()

    def follow(self, places: Sequence[Place], *, from_start: bool) -> Iterator[Message | None]:
        """Committed records as they come, for ever; None whenever there was nothing for a moment."""
        start = OFFSET_BEGINNING if from_start else OFFSET_END
        self._consumer.assign([TopicPartition(topic, number, start) for topic, number in places])
        while True:
            messages = [message for message in self._batch(_POLL_SECONDS) if message.error() is None]
            yield from messages
            if not messages:
                yield None

    def close(self) -> None:
        self._consumer.close()

    def low_high(self, topic: str, partition: int) -> tuple[int, int]:
        """The offsets that there are."""
        with self._named():
            found = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS, cached=False
            )
        if found is None:
            raise ServerUnreachable(f"Kafka ({self._brokers}): no answer about {topic}[{partition}]")
        low, high = found
        return low, high

    def _high(self, place: TopicPartition) -> int:
        return self.low_high(place.topic, place.partition)[1]

    def _batch(self, seconds: float) -> list[Message]:
        messages = self._consumer.consume(_AT_ONCE, timeout=seconds)
        for message in messages:
            error = message.error()
            if error is not None and error.code() in _REFUSED | {KafkaError.UNKNOWN_TOPIC_OR_PART}:
                raise self._meaning(KafkaException(error))
        return list(messages)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise self._meaning(error) from error

    def _meaning(self, error: KafkaException) -> Exception:
        # Lets the client tell why: its own error is only "transport failure".
        self._consumer.poll(0)
        code = error.args[0].code() if error.args and isinstance(error.args[0], KafkaError) else None
        reason = f": {self._said[-1]}" if self._said else ""
        if code in _LOGIN or "authentication" in reason.lower():
            remedy = "check the sasl.* and ssl.* keys of [kafka]"
            return Misconfigured(f"Kafka refused the login{reason}", remedy=remedy)
        if code in _REFUSED:
            return Misconfigured(f"the Kafka principal lacks a right: {_words(error)}")
        return ServerUnreachable(f"Kafka ({self._brokers}): {_words(error)}{reason}")

    def _trouble(self, error: KafkaError) -> None:
        text = scrubbed(error.str())
        self._said.append(text)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._on_trouble(text)


@contextmanager
def topics_of(settings: Settings, *, on_trouble: Callable[[str], None] = lambda _text: None) -> Iterator[Topics]:
    """A `Topics` that is closed at the end."""
    topics = Topics(settings, on_trouble=on_trouble)
    try:
        yield topics
    finally:
        topics.close()


def look(topics: Topics, settings: Settings) -> KafkaSide:
    """The newest checkpoint and its age. Raises what `Topics` raises."""
    topic = settings.checkpoint_topic
    if topic not in topics.partitions():
        return KafkaSide(None, problem=f"the checkpoint topic {topic} does not exist", missing=True)
    try:
        newest = _newest(topics, topic, settings.relay.name.encode(), time.monotonic() + TIMEOUT_SECONDS)
        if newest is None:
            return KafkaSide(None)
        checkpoint = decode(newest.value() or b"")
    except CheckpointLost as error:
        return KafkaSide(None, problem=str(error))
    except TimeoutError:
        return KafkaSide(None, problem=f"{topic} could not be read within {TIMEOUT_SECONDS:g} s")
    seconds = stamp_seconds(newest)
    return KafkaSide(checkpoint, None if seconds is None else max(0.0, time.time() - seconds))


def stamp_seconds(message: Message) -> float | None:
    """The record's own timestamp in Unix seconds."""
    kind, millis = message.timestamp()
    return None if kind == TIMESTAMP_NOT_AVAILABLE else millis / 1000


def _newest(topics: Topics, topic: str, key: bytes, deadline: float) -> Message | None:
    low, high = topics.low_high(topic, 0)
    span = _TAIL
    while high > low:
        start = max(low, high - span)
        newest = None
        for message in topics.read({(topic, 0): start}, deadline):
            if message.key() == key and message.value() is not None:
                newest = message
        if newest is not None or start == low:
            return newest
        span *= 10
    return None


def _words(error: KafkaException) -> str:
    found = error.args[0] if error.args else error
    return scrubbed(found.str() if isinstance(found, KafkaError) else found)
