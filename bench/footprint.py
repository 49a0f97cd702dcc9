"""What the relay costs when there is nothing to do, and how soon it publishes after its start."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psycopg

from bench.rig import MEASURED, Checkpoints, Rig
from dovetail.psycopg import Outbox

IDLE_SECONDS = 10.0
# What a start leaves behind (caches, first statements) is over by then, and is not idleness.
SETTLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """`idle_cpu_percent` is of one core."""

    rss_idle_mb: float
    idle_cpu_percent: float
    first_publish_s: float


def footprint(rig: Rig, starts: int = 5) -> Footprint:
    """Median of `starts` from process start to the first commit that a `read_committed` reader sees; then idle."""
    relay = rig.relay()
    relay.wait_streaming()  # the rows that were there before the slot are this one's
    relay.stop()
    first = []
    for _ in range(starts):
        with psycopg.connect(rig.endpoints.app_dsn) as connection:
            Outbox().publish(connection, MEASURED({"key": "k", "sent_ns": time.time_ns(), "pad": b""}))
            connection.commit()
        checkpoints = Checkpoints(rig)
        before = checkpoints.writer_now()
        relay = rig.relay()
        checkpoints.wait_for_another(before, 30)
        first.append(time.monotonic() - relay.started)
        checkpoints.close()
        relay.stop()
    relay = rig.relay()
    relay.wait_streaming()
    time.sleep(SETTLE_SECONDS)  # what the start has left to do is none of what it costs to be idle
    cpu = relay.cpu_seconds()
    time.sleep(IDLE_SECONDS)  # what is measured is what it does meanwhile
    spent = relay.cpu_seconds() - cpu
    rss = relay.rss_mb()
    relay.stop()
    return Footprint(rss, spent / IDLE_SECONDS * 100, statistics.median(first))
