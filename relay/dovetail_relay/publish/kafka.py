"""The transactional producer: events first, the checkpoint last, one commit, and never a producer twice.

The rules, each with its reason in docs/explanation/exactly-once.md:

* events, flush, every delivery checked; *only then* the checkpoint, flush, commit;
* a commit that was slow may hide a retry whose twin is still under way: it counts as unknown;
* after anything but a quick success the producer is buried, never aborted and reused: a late abort takes the next
  transaction's events with it, silently;
* a fresh producer per fencing attempt, because librdkafka waits a fixed 500 ms inside one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from dovetail_relay.errors import KafkaUnavailable, Misconfigured, PartitionsChanged
from dovetail_relay.nouns import Checkpoint, Record
from dovetail_relay.publish.checkpoint import CheckpointReader, encode
from dovetail_relay.publish.port import Outcome, Result
from dovetail_relay.publish.refusals import REFUSED, Failure, bad_property, gone, kafka_error, refusal, refusals_in

RETRY_BACKOFF_MS: Final = 1000
# A hidden retry of EndTxn comes after retry.backoff.ms, give or take a fifth; a normal one takes 1 to 77 ms. What holds
# it back is not reconnect.backoff.ms: that counts from the last connect, and an old connection is made again at once.
SLOW_COMMIT_SECONDS: Final = 0.75 * RETRY_BACKOFF_MS / 1000
# Below socket.timeout.ms, so that no second EndTxn is sent inside one call.
COMMIT_TIMEOUT: Final = 8.0
# Just above message.timeout.ms: by then each message has been delivered or has failed.
FLUSH_TIMEOUT: Final = 15.0
_FLUSH_SLICE: Final = 0.1

PRODUCER_DEFAULTS: Final[dict[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    # Java's and Debezium's: keys land in the partitions that their readers expect.
    "partitioner": "murmur2_random",
    "linger.ms": 0,
    "socket.keepalive.enable": True,
    "socket.timeout.ms": 10_000,
    "message.timeout.ms": 14_000,
    "transaction.timeout.ms": 15_000,
    "retry.backoff.ms": RETRY_BACKOFF_MS,
    "retry.backoff.max.ms": RETRY_BACKOFF_MS,
    # Sparse connections open one at a time, half a reconnect.backoff.ms apart, and the first of them is often none that
    # init_transactions can use: a fresh producer waits for nothing. Without them it takes 3 ms.
    "enable.sparse.connections": False,
    "delivery.report.only.error": True,
    # How soon a topic that grew is noticed; one small request, off the path of the events.
    "topic.metadata.refresh.interval.ms": 5_000,
    # Bounds the client's own copy of what is under way.
    "queue.buffering.max.kbytes": 65_536,
    "queue.buffering.max.messages": 200_000,
    "log_level": 0,
}

# A broker answers for a whole request. With one record in each it says which of them it refuses; the rest of the
# transaction is lost with it either way.
ISOLATING: Final[dict[str, Any]] = {"batch.num.messages": 1}
# init_transactions can never succeed with these: a setting or an ACL.
_HOPELESS: Final = frozenset(
    (
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._UNSUPPORTED_FEATURE,
    )
)


def flush(producer: Producer, failures: list[Failure]) -> int:
    """Wait until everything is delivered, or something has failed; how many records are still under way.

    Not one long wait: once a record of a transaction is refused, those behind it wait for their timeout and for nothing
    else.
    """
    deadline = time.monotonic() + FLUSH_TIMEOUT
    while (left := producer.flush(_FLUSH_SLICE)) > 0 and not failures and time.monotonic() < deadline:
        pass
    return left


def produce_alone(producer: Producer, delivered: Callable[..., None]) -> Callable[..., None]:
    """`producer.produce`, but each failed delivery comes with the record's place in the batch."""
    places = count()

    def produce(topic: str, value: bytes | None, key: bytes, headers: Any) -> None:
        on_delivery = partial(delivered, index=next(places))
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=on_delivery)
            except BufferError:
                producer.poll(0.05)
            else:
                return

    return produce


def require_counts(producer: Producer, topics: Iterable[str], counts: Mapping[str, int]) -> None:
    """Raise PartitionsChanged where the producer has learned that one of these topics has grown.

    Its keys go to other partitions from then on. Asked after a flush, the answer holds for all that was flushed: a
    topic does not shrink. Nothing is sent for it: a message for the first partition that should not exist is refused by
    the client itself. Where it is not refused, this producer's transaction must not be committed.
    """
    for topic in topics:
        count = counts.get(topic)
        if count is None:
            continue
        try:
            producer.produce(topic, b"", partition=count)
        except KafkaException as raised:
            if raised.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                raise
        else:
            raise PartitionsChanged(f"topic {topic} had {count} partitions and has more now")


class KafkaPublisher:
    """Exactly once. Implements `port.Publisher`."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        transactional_id: str,
        checkpoint_topic: str,
        relay: str,
        on_step: Callable[[str], None],
        on_client_error: Callable[[str], None],
    ) -> None:
        self._config = {
            **PRODUCER_DEFAULTS,
            **config,
            "transactional.id": transactional_id,
            "error_cb": lambda error: on_client_error(error.name()),
            "on_delivery": self._delivered,
        }
        self._topic = checkpoint_topic
        self._key = relay.encode()
        self._on_step = on_step
        self._reader = CheckpointReader({"log_level": 0, **client_only(config)}, checkpoint_topic, self._key)
        self._failures: list[Failure] = []
        self._alone = False
        # Partitions of each topic: as they are recorded, or else as they were when it was first asked for.
        self.counts: dict[str, int] = {}
        self._topics: set[str] = set()
        self._producer: Producer | None = self._build()

    def fence(self, timeout: float) -> bool:
        producer, self._producer = self._producer, None
        if producer is None:
            producer = self._build()
        try:
            producer.init_transactions(timeout)
        except (KafkaException, SystemError) as raised:
            bury(producer)
            error = kafka_error(raised)
            if error is None:
                raise
            if error.code() in _HOPELESS:
                raise Misconfigured(f"init_transactions: {error.name()}: {error.str()}") from raised
            if error.code() == KafkaError._FENCED:
                # Somebody fenced us while we were fencing: the lock tells who may go on; the caller asks it each time.
                return False
            return False
        self._failures = []
        self._producer = producer
        self._on_step("fenced")
        return True

    def isolate(self, *, alone: bool) -> None:
        self._alone = alone

    def read(self, timeout: float) -> Checkpoint | None:
        found = self._reader.read(timeout)
        self._on_step("read")
        return found

    def partitions(self, topic: str, timeout: float) -> int | None:
        producer = self._producer
        if producer is None:
            producer = self._producer = self._build()
        try:
            found = producer.list_topics(topic, timeout=timeout).topics[topic]
        except KafkaException as error:
            raise KafkaUnavailable(f"metadata of topic {topic}: {error.args[0].str()}") from error
        if found.error is not None:
            return None
        self.counts.setdefault(topic, len(found.partitions))
        return len(found.partitions)

    def expect(self, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)

    def send(self, records: list[Record]) -> Outcome | None:
        producer = self._live()
        self._topics = {record.topic for record in records}
        half = len(records) // 2
        index = 0
        try:
            producer.begin_transaction()
            self._on_step("begin")
            produce = produce_alone(producer, self._delivered) if self._alone else producer.produce
            for topic, value, key, headers in records:
                if index == half:
                    self._on_step("half")
                try:
                    produce(topic, value, key, headers=headers)
                except BufferError:
                    self._produce_when_there_is_room(producer, records[index])
                index += 1
        except (KafkaException, SystemError) as raised:
            outcome = self._failed(raised, acknowledged=False)
            error = kafka_error(raised)
            if error is not None and error.code() in REFUSED and index < len(records):
                refused = refusal(records[index].topic, error, index)
                return Outcome(Result.UNKNOWN, error.name(), all_acknowledged=False, refusals=(refused,))
            return outcome
        self._on_step("produced")
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Outcome:
        del write  # exactly once always writes it
        producer = self._live()
        acknowledged = False
        started = 0.0
        try:
            if self._unfinished(producer):
                return self._unknown("not all events were delivered", acknowledged=False)
            acknowledged = True
            require_counts(producer, self._topics, self.counts)
            self._on_step("flushed")
            producer.produce(self._topic, encode(checkpoint), self._key, 0)
            self._on_step("checkpoint_produced")
            if self._unfinished(producer):
                return self._unknown("the checkpoint was not delivered", acknowledged=True)
            self._on_step("checkpoint_flushed")
            started = time.monotonic()
            producer.commit_transaction(COMMIT_TIMEOUT)
        except (KafkaException, SystemError) as raised:
            return self._failed(raised, acknowledged=acknowledged)
        except PartitionsChanged:
            self._discard()
            raise
        took = time.monotonic() - started
        if took > SLOW_COMMIT_SECONDS:
            # A hidden retry is possible. The reason is a label of a metric: no number in it.
            return self._unknown("slow commit", acknowledged=True)
        self._on_step("committed")
        if self._alone:
            return self._unknown("a producer that sends records alone is not used twice", acknowledged=True)
        return Outcome(Result.COMMITTED, "", all_acknowledged=True, commit_seconds=took)

    def close(self) -> None:
        if self._producer is not None:
            bury(self._producer)
            self._producer = None
        # A read of the checkpoint may still wait for a silent broker: a thread waits for that, nobody else.
        threading.Thread(target=self._reader.close, name="dovetail-bury", daemon=True).start()

    def _live(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("this publisher must be fenced before it is used")
        return self._producer

    def _build(self) -> Producer:
        try:
            return Producer(self._config | ISOLATING if self._alone else self._config)
        except KafkaException as error:
            raise bad_property(error) from error

    def _delivered(self, error: KafkaError | None, message: Any, *, index: int | None = None) -> None:
        # Errors only; called from flush and poll on the side thread, or from a poll in `send`.
        if error is not None:
            self._failures.append((message.topic(), error, index))

    def _unfinished(self, producer: Producer) -> bool:
        return flush(producer, self._failures) > 0 or bool(self._failures)

    def _produce_when_there_is_room(self, producer: Producer, record: Record) -> None:
        while True:
            producer.poll(0.05)
            try:
                producer.produce(record.topic, record.value, record.key, headers=record.headers)
            except BufferError:
                continue
            return

    def _unknown(self, reason: str, *, acknowledged: bool) -> Outcome:
        failures, producer = self._failures, self._producer
        refusals = refusals_in(failures) or (() if producer is None else gone(producer, failures))
        del producer
        self._discard()
        if failures:
            reason = f"{reason}: {failures[0][1].name()}"
        return Outcome(Result.UNKNOWN, reason, all_acknowledged=acknowledged, refusals=refusals)

    def _failed(self, raised: BaseException, *, acknowledged: bool) -> Outcome:
        error = kafka_error(raised)
        if error is None:
            raise raised
        return self._unknown(error.name(), acknowledged=acknowledged)

    def _discard(self) -> None:
        """Never used again, never aborted: the next `init_transactions` ends what is open."""
        producer, self._producer = self._producer, None
        self._failures = []
        if producer is not None:
            bury(producer)


def bury(producer: Producer) -> None:
    """Destroying a producer with an unresolved commit has blocked for 11 s: a thread waits for it, nobody else."""
    grave = [producer]
    threading.Thread(target=_destroy, args=(grave,), name="dovetail-bury", daemon=True).start()


def _destroy(grave: list[Producer]) -> None:
    # Where this raises it is fatal already, which is as dead as we want it.
    with contextlib.suppress(KafkaException, SystemError):
        grave[0].purge(in_queue=True, in_flight=True, blocking=False)
    # The frames that used it last may still be returning: only the last reference destroys, and that must be ours.
    # One reference is the list's, one is getrefcount's own argument.
    while sys.getrefcount(grave[0]) > 2:
        time.sleep(0.05)  # nothing tells when a frame lets its reference go
    grave.clear()


def client_only(config: dict[str, Any]) -> dict[str, Any]:
    """The properties that a consumer understands too: connection and security."""
    prefixes = (
        "bootstrap.",
        "security.",
        "sasl.",
        "ssl.",
        "socket.",
        "client.",
        "broker.",
        "metadata.",
        "log",
        "debug",
    )
    return {name: value for name, value in config.items() if name.startswith(prefixes)}
