"""From just before COMMIT to a `read_committed` consumer's hands, at a steady rate, beside a bare produce and consume."""

from __future__ import annotations

import io
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import fastavro
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.rig import MEASURED, PARTITIONS, SCHEMA, Rig, high_watermarks
from dovetail.psycopg import Outbox

WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    name: str
    rate: int
    p50: float
    p99: float
    worst: float
    events: int


def of(name: str, rate: int, nanoseconds: list[int]) -> Latency:
    """The percentiles of what was measured after the warm-up."""
    found = sorted(nanoseconds)
    if not found:
        raise SystemExit(f"{name}: nothing was measured")
    at = [found[int(len(found) * share)] / 1e6 for share in (0.5, 0.99)]
    return Latency(name, rate, at[0], at[1], found[-1] / 1e6, len(found))


def _consume(bootstrap: str, topic: str, offsets: dict[int, int], seconds: float, out: Connection) -> None:
    """In a process of its own: note when each event came."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": "read_committed", "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])
    consumer.poll(0.5)
    out.send("ready")
    started = time.monotonic()
    measured: list[int] = []
    while time.monotonic() - started < seconds:
        message = consumer.poll(0.2)
        if message is None or message.error() is not None:
            continue
        now = time.time_ns()
        if time.monotonic() - started > WARM_UP_SECONDS:
            body: Any = fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), SCHEMA)
            measured.append(now - body["sent_ns"])
    consumer.close()
    out.send(measured)


def _at_rate(rate: int, seconds: float, act: Callable[[], None]) -> None:
    due = time.monotonic()
    end = due + seconds
    while due < end:
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)  # the pace is what is asked for
        act()
        due += 1 / rate


def _measure(rig: Rig, seconds: float, write: Callable[[float], None]) -> list[int]:
    offsets = high_watermarks(rig.endpoints.bootstrap_servers, rig.topic)
    assert len(offsets) == PARTITIONS
    receive, send = multiprocessing.Pipe(duplex=False)
    total = seconds + WARM_UP_SECONDS
    reader = multiprocessing.get_context("spawn").Process(
        target=_consume, args=(rig.endpoints.bootstrap_servers, rig.topic, offsets, total, send)
    )
    reader.start()
    receive.recv()
    write(total)
    measured: list[int] = receive.recv()
    reader.join(10)
    return measured


def through_the_outbox(rig: Rig, rate: int, seconds: float, writers: int) -> Latency:
    """One event per transaction, `writers` connections sharing the rate; the relay runs already."""

    def write(total: float) -> None:
        def one() -> None:
            outbox = Outbox()
            with psycopg.connect(rig.endpoints.app_dsn) as connection:

                def act() -> None:
                    event = MEASURED({"key": "k", "sent_ns": time.time_ns(), "pad": bytes(120)})
                    outbox.publish(connection, event)
                    connection.commit()

                _at_rate(rate // writers, total, act)

        threads = [threading.Thread(target=one) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return of("outbox", rate, _measure(rig, seconds, write))


def floor(rig: Rig, rate: int, seconds: float) -> Latency:
    """The same reader; a bare idempotent producer with a flush's worth of nothing in between."""
    producer = Producer(
        {"bootstrap.servers": rig.endpoints.bootstrap_servers, "enable.idempotence": True, "linger.ms": 0}
    )

    def write(total: float) -> None:
        def act() -> None:
            body = io.BytesIO()
            fastavro.schemaless_writer(body, SCHEMA, {"key": "k", "sent_ns": time.time_ns(), "pad": bytes(120)})
            producer.produce(rig.topic, b"\0\0\0\0\1" + body.getvalue(), b"k")
            producer.poll(0)

        _at_rate(rate, total, act)
        producer.flush(10)

    return of("floor", rate, _measure(rig, seconds, write))
