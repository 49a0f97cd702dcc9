"""A topic as a reader finds it who knows nothing of Dovetail: whole Kafka messages, headers included."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

_PATIENCE_SECONDS = 60.0


def messages(bootstrap_servers: str, topic: str, count: int) -> list[Message]:
    """The first `count` committed messages or more, partition by partition; fails where they do not come."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "topic-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
    try:
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        reader.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[Message] = []
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} messages are in {topic}"
            found += [message for message in reader.consume(5000, timeout=0.05) if message.error() is None]
        # What comes too late or too often comes now.
        found += [message for message in reader.consume(5000, timeout=0.3) if message.error() is None]
        return sorted(found, key=lambda message: (message.partition(), message.offset()))
    finally:
        reader.close()


def headers(message: Message) -> dict[str, Any]:
    """Name to text."""
    return {name: value.decode() for name, value in message.headers()}
