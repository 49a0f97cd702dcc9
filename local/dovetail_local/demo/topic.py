"""What Kafka has, read without a line of the relay's code: a plain read_committed consumer and its own decoding."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from dovetail_local.demo.books import Order, Record

_POLL_SECONDS = 0.2
_MANY = 10_000

Definition = Callable[[int], str]


class Unreadable(Exception):
    """A record is not what the contract says."""


class Decoder:
    """From Confluent's frame (a zero, the schema's id in four bytes, Avro) to an order."""

    def __init__(self, definition: Definition) -> None:
        """`definition` gives the text of a schema by its id."""
        self._definition = definition
        self._schemas: dict[int, Any] = {}

    def order(self, value: bytes | None) -> Order:
        """Decode one value. Raises `Unreadable`."""
        if value is None or len(value) < 5 or value[0] != 0:
            raise Unreadable("a record's value does not begin with Confluent's frame")
        schema_id = int.from_bytes(value[1:5])
        if schema_id not in self._schemas:
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(self._definition(schema_id)))
        fields = fastavro.schemaless_reader(io.BytesIO(value[5:]), self._schemas[schema_id], None)
        if not isinstance(fields, dict):
            raise Unreadable("a record's value is not an Avro record")
        return Order(fields["customer"], fields["number"], fields["product"])


class TopicReader:
    """Reads a topic from its first offset on; nothing of it is stored in Kafka."""

    def __init__(self, properties: dict[str, str], topic: str, definition: Definition) -> None:
        """Find the topic's partitions and begin at their beginnings."""
        own = {"group.id": "dovetail-demo-books", "enable.auto.commit": False, "enable.partition.eof": True}
        self._consumer = Consumer({**properties, **own, "isolation.level": "read_committed", "log_level": 0})
        self._decoder = Decoder(definition)
        partitions = self._consumer.list_topics(topic, timeout=10.0).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self._unfinished = set(partitions)

    def close(self) -> None:
        """Let the connections go."""
        self._consumer.close()

    def poll(self, wait_seconds: float = 0.0) -> list[Record]:
        """Give what has come since the last call."""
        return [self._record(message) for message in self._messages(wait_seconds)]

    def read_all(self, deadline: float) -> list[Record]:
        """Give everything up to the present end of every partition, by `deadline` of the monotonic clock."""
        records: list[Record] = []
        while self._unfinished:
            if time.monotonic() > deadline:
                raise Unreadable(f"the topic could not be read to its end: {len(self._unfinished)} partitions are left")
            records += self.poll(_POLL_SECONDS)
        return records

    def _messages(self, wait_seconds: float) -> list[Message]:
        messages = []
        for message in self._consumer.consume(_MANY, wait_seconds):
            error = message.error()
            if error is None:
                self._unfinished.add(message.partition())
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._unfinished.discard(message.partition())
            elif not error.retriable():
                raise Unreadable(f"Kafka: {error.str()}")
        return messages

    def _record(self, message: Message) -> Record:
        headers: Any = message.headers() or ()
        ids = [value for name, value in headers if name == "id" and value is not None]
        key, partition = message.key(), message.partition()
        if len(ids) != 1 or key is None or partition is None:
            raise Unreadable("a record has no key, or not exactly one header 'id'")
        return Record(ids[0].decode(), key.decode(), partition, self._decoder.order(message.value()))
