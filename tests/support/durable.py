"""The checkpoint as Kafka holds it, read without our code."""

from __future__ import annotations

import json
import threading
import time

from confluent_kafka import Consumer, TopicPartition


class DurableCheckpoint:
    """The newest committed checkpoint's end_lsn, read by a consumer of the test's own."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._lock = threading.Lock()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "wire",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._newest = 0

    def covers(self, lsn: int, patience_seconds: float = 2.0) -> bool:
        """Whether a committed checkpoint at or beyond `lsn` is visible.

        A `read_committed` reader may see a commit a moment after its producer was told: the patience is for that, and
        a flush position that no checkpoint carries never turns true.
        """
        with self._lock:
            deadline = time.monotonic() + patience_seconds
            while self._newest < lsn and time.monotonic() < deadline:
                for message in self._consumer.consume(500, timeout=0.05):
                    if message.error() is None:
                        high, low = json.loads(message.value())["end_lsn"].split("/")
                        self._newest = max(self._newest, int(high, 16) << 32 | int(low, 16))
            return self._newest >= lsn
