"""A Kafka message made by hand, with the methods of confluent_kafka.Message that the inbox reads."""

from typing import Any


class FakeMessage:
    """Its fields are given as they come from the wire."""

    def __init__(self, *, value: bytes | None, key: bytes | None, headers: Any, offset: int = 17) -> None:
        self._parts = (value, key, headers, offset)

    def value(self) -> bytes | None:
        return self._parts[0]

    def key(self) -> bytes | None:
        return self._parts[1]

    def headers(self) -> Any:
        return self._parts[2]

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return self._parts[3]
