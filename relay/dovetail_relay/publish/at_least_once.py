"""at_least_once: events by a plain idempotent producer as they come, the checkpoint by a transactional one behind.

The checkpoint is written all the same, off the latency path, so that a zombie's old one, a recreated slot and a switch
of modes are seen. Events after the newest checkpoint may repeat after a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from dovetail_relay.errors import KafkaUnavailable, PartitionsChanged
from dovetail_relay.nouns import Checkpoint, Record
from dovetail_relay.publish.kafka import ISOLATING, PRODUCER_DEFAULTS, KafkaPublisher, bury, flush, produce_alone
from dovetail_relay.publish.port import Outcome, Result
from dovetail_relay.publish.refusals import REFUSED, Failure, bad_property, gone, kafka_error, refusal, refusals_in


class AtLeastOncePublisher:
    """Implements `port.Publisher`; `settle` answers DELIVERED where it was told not to write the checkpoint."""

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
        self._checkpoints = KafkaPublisher(
            config,
            transactional_id=transactional_id,
            checkpoint_topic=checkpoint_topic,
            relay=relay,
            on_step=on_step,
            on_client_error=on_client_error,
        )
        self._config = {
            **PRODUCER_DEFAULTS,
            # No commit here that a retry could hide in.
            "retry.backoff.ms": 100,
            **{name: value for name, value in config.items() if name != "transaction.timeout.ms"},
            "error_cb": lambda error: on_client_error(error.name()),
            "on_delivery": self._delivered,
        }
        self._config.pop("transaction.timeout.ms")
        self._on_step = on_step
        self._failures: list[Failure] = []
        self._alone = False
        self._events: Producer | None = None
        # What was published to since the last checkpoint.
        self._topics: set[str] = set()

    def fence(self, timeout: float) -> bool:
        return self._checkpoints.fence(timeout)

    def read(self, timeout: float) -> Checkpoint | None:
        return self._checkpoints.read(timeout)

    def isolate(self, *, alone: bool) -> None:
        # The checkpoint's own producer sends one record at a time as it is. Asked after each batch: a producer is only
        # made anew where it must send otherwise than now, for the first event of a new one waits for its id.
        if alone != self._alone:
            self._alone = alone
            self._discard()

    def partitions(self, topic: str, timeout: float) -> int | None:
        return self._checkpoints.partitions(topic, timeout)

    def expect(self, counts: Mapping[str, int]) -> None:
        self._checkpoints.expect(counts)

    def send(self, records: list[Record]) -> Outcome | None:
        if self._events is None:
            self._failures = []
            try:
                self._events = Producer(self._config | ISOLATING if self._alone else self._config)
            except KafkaException as unfit:
                raise bad_property(unfit) from unfit
        producer = self._events
        self._topics.update(record.topic for record in records)
        self._on_step("begin")
        index = 0
        produce = produce_alone(producer, self._delivered) if self._alone else producer.produce
        try:
            for topic, value, key, headers in records:
                if index == len(records) // 2:
                    self._on_step("half")
                while True:
                    try:
                        produce(topic, value, key, headers=headers)
                    except BufferError:
                        producer.poll(0.05)
                    else:
                        break
                index += 1
        except (KafkaException, SystemError) as raised:
            error = kafka_error(raised)
            if error is None:
                raise
            self._discard()
            refused = error.code() in REFUSED and index < len(records)
            refusals = (refusal(records[index].topic, error, index),) if refused else ()
            return Outcome(Result.UNKNOWN, error.name(), all_acknowledged=False, refusals=refusals)
        self._on_step("produced")
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Outcome:
        failed = self._flush_events()
        if failed is not None:
            return failed
        self._on_step("flushed")
        if not write:
            return Outcome(Result.DELIVERED, "", all_acknowledged=True)
        self._require_counts()
        refused = self._checkpoints.send([])
        return refused if refused is not None else self._checkpoints.settle(checkpoint, write=True)

    def close(self) -> None:
        self._discard()
        self._checkpoints.close()

    def _require_counts(self) -> None:
        """Raise PartitionsChanged where a topic has more than are recorded; its keys may have moved.

        Unlike in a transaction nothing can be taken back: what was published since the last checkpoint stays.
        """
        for topic in self._topics:
            before = self._checkpoints.counts.get(topic)
            # An outage is the checkpoint's own affair, and the next one looks again.
            with contextlib.suppress(KafkaUnavailable):
                now = self._checkpoints.partitions(topic, timeout=1.0)
                if before is not None and now is not None and now != before:
                    raise PartitionsChanged(f"topic {topic} had {before} partitions and has {now} now")
        self._topics.clear()

    def _flush_events(self) -> Outcome | None:
        producer = self._events
        if producer is None:
            return None
        try:
            left = flush(producer, self._failures)
        except (KafkaException, SystemError) as raised:
            error = kafka_error(raised)
            if error is None:
                raise
            self._discard()
            return Outcome(Result.UNKNOWN, error.name(), all_acknowledged=False)
        failures = self._failures
        if left == 0 and not failures:
            return None
        refusals = refusals_in(failures) or gone(producer, failures)
        self._discard()
        reason = failures[0][1].name() if failures else "not all events were delivered"
        return Outcome(Result.UNKNOWN, reason, all_acknowledged=False, refusals=refusals)

    def _delivered(self, error: KafkaError | None, message: Any, *, index: int | None = None) -> None:
        if error is not None:
            self._failures.append((message.topic(), error, index))

    def _discard(self) -> None:
        """A message that timed out was dropped while later ones went on: nothing of this producer is used again."""
        producer, self._events = self._events, None
        self._failures = []
        if producer is not None:
            bury(producer)
