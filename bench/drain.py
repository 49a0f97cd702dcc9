"""How fast a backlog drains, beside the fastest reader there is of the same rows, just before and just after."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from confluent_kafka import Producer

from bench.rig import PAYLOAD_BYTES, Rig
from dovetail_local.software import postgres_binaries


@dataclass(frozen=True, slots=True)
class Drain:
    """Rows per second, and what it cost."""

    mode: str
    rows: int
    rows_per_second: float
    ceiling_before: float
    ceiling_after: float
    cpu_s_per_100k: float
    peak_rss_mb: float

    @property
    def to_ceiling(self) -> float:
        return self.rows_per_second / ((self.ceiling_before + self.ceiling_after) / 2)


def drain(rig: Rig, mode: str, rows: int) -> Drain:
    """Fill, read with pg_recvlogical, drain with the relay, read with pg_recvlogical again."""
    rig.slot(f"{rig.name}_before")
    rig.slot(f"{rig.name}_after")
    rig.fill(rows)
    rig.settle()
    end = rig.wal_end()
    before = ceiling(rig, f"{rig.name}_before", end, rows)
    marks = rig.published()
    relay = rig.relay(DOVETAIL_DELIVERY__MODE=mode)
    relay.wait_streaming()
    started = time.monotonic()
    relay.until(lambda: rig.published() - marks >= rows, f"{rows} rows are out", 600)
    elapsed = time.monotonic() - started
    cpu, peak = relay.cpu_seconds(), relay.rss_mb("VmHWM")
    relay.stop()
    after = ceiling(rig, f"{rig.name}_after", end, rows)
    return Drain(mode, rows, rows / elapsed, before, after, cpu / rows * 1e5, peak)


def ceiling(rig: Rig, slot: str, end: str, rows: int) -> float:
    """Rows per second of `pg_recvlogical` to /dev/null, the same protocol options; the slot is dropped afterwards."""
    started = time.monotonic()
    subprocess.run(
        [
            postgres_binaries("18", None, lambda _word: None) / "bin" / "pg_recvlogical", "-d", rig.endpoints.relay_dsn, "--slot", slot, "--start",
            "-o", "proto_version=1", "-o", "publication_names=dovetail", "-o", "binary=true",
            "--endpos", end, "--no-loop", "-f", "/dev/null",
        ],
        check=True,
        timeout=600,
    )  # fmt: skip
    elapsed = time.monotonic() - started
    rig.drop_slot(slot)
    return rows / elapsed


def bare_producer(rig: Rig, rows: int) -> float:
    """Rows per second of a bare idempotent producer with the same headers and sizes, no PostgreSQL in sight."""
    producer = Producer(
        {
            "bootstrap.servers": rig.endpoints.bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 0,
            "queue.buffering.max.messages": 200_000,
        }
    )
    value = bytes(PAYLOAD_BYTES + 5)
    headers = [("id", b"0" * 36), ("type", b"Measured"), ("time", b"0" * 27), ("position", b"0" * 20)]
    keys = [f"key-{number}".encode() for number in range(97)]
    started = time.monotonic()
    for row in range(rows):
        while True:
            try:
                producer.produce(rig.topic, value, keys[row % 97], headers=headers)
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush(60)
    return rows / (time.monotonic() - started)
