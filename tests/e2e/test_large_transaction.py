"""One transaction of a million rows: every row once and in order, in flat memory, also across a kill -9."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from dovetail_local.stack import Stack
from support.relay import RelayProcess
from support.world import PARTITIONS, World, new_world

SMALL, LARGE = 20_000, 1_000_000


def insert_rows(world: World, count: int) -> None:
    """One transaction. The row's number is in its id, so that no payload has to be decoded."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT lpad(to_hex(n), 32, '0')::uuid, %s, 'k' || n %% 100, 'Numbered', '\\x02006b', fingerprint"
            " FROM generate_series(1, %s) AS n, dovetail.event_schema",
            (world.aggregate, count),
        )


class Reader:
    """Reads the topic as it grows; only numbers are kept."""

    def __init__(self, world: World) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": world.endpoints.bootstrap_servers,
                "group.id": "large",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 16_384,
            }
        )
        self._consumer.assign([TopicPartition(world.topic, partition, 0) for partition in range(PARTITIONS)])
        self.numbers: list[list[int]] = [[] for _ in range(PARTITIONS)]

    def read_until(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while sum(map(len, self.numbers)) < count:
            assert time.monotonic() < deadline, f"{sum(map(len, self.numbers))} of {count} within {timeout} s"
            for message in self._consumer.consume(20_000, timeout=0.2):
                if message.error() is None:
                    self.numbers[message.partition()].append(int(message.headers()[0][1].replace(b"-", b""), 16))

    def nothing_more(self) -> bool:
        return not [message for message in self._consumer.consume(10, timeout=1) if message.error() is None]

    def close(self) -> None:
        self._consumer.close()


def peak_mb(relay: RelayProcess) -> float:
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def copy_rows(world: World, count: int) -> None:
    """The same by COPY, whose rows share positions in the write-ahead log."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection, connection.cursor() as cursor:
        (fingerprint,) = cursor.execute("SELECT fingerprint FROM dovetail.event_schema").fetchone() or (b"",)
        columns = "id, aggregatetype, aggregateid, type, payload, schema_fingerprint"
        with cursor.copy(f"COPY dovetail.outbox ({columns}) FROM STDIN") as copy:
            for number in range(1, count + 1):
                row = (
                    uuid.UUID(int=number),
                    world.aggregate,
                    f"k{number % 100}",
                    "Numbered",
                    b"\x02\x00k",
                    fingerprint,
                )
                copy.write_row(row)


def publish_alone(
    stack: Stack, count: int, *, kill_at: int | None = None, write: Callable[[World, int], None] = insert_rows
) -> tuple[float, float]:
    """(peak MB of the relay, seconds) for one transaction of `count` rows."""
    with new_world(stack) as world:
        relay = world.relay().wait_streaming()
        reader = Reader(world)
        started = time.monotonic()
        write(world, count)
        if kill_at is not None:
            reader.read_until(kill_at, 60)
            relay.kill()
            assert sum(map(len, reader.numbers)) < count, "it was killed in the middle"
            relay = world.relay().wait_streaming()
        reader.read_until(count, 120)
        took = time.monotonic() - started
        assert reader.nothing_more()
        reader.close()
        # A restart in its middle is a beginning no more.
        assert relay.has_logged("large_transaction") is (kill_at is None)
        # In the order of the transaction in each partition, hence per key; each number once.
        assert all(numbers == sorted(numbers) for numbers in reader.numbers)
        assert sorted(number for numbers in reader.numbers for number in numbers) == list(range(1, count + 1))
        return peak_mb(relay), took


@pytest.mark.timeout(240)
def test_a_million_rows_in_one_transaction_go_out_once_and_in_flat_memory(stack: Stack) -> None:
    small, _ = publish_alone(stack, SMALL)
    large, took = publish_alone(stack, LARGE, kill_at=LARGE // 4)
    print(f"peak RSS: {small:.0f} MB for {SMALL:,} rows, {large:.0f} MB for {LARGE:,}; {took:.1f} s with one kill -9")
    assert large < 1.6 * small


def test_a_copy_of_a_hundred_thousand_rows_comes_once_and_in_order_across_a_kill(stack: Stack) -> None:
    publish_alone(stack, 100_000, kill_at=20_000, write=copy_rows)
