"""`python -m bench.takeover [--kills N] [--freezes N]`: how long nobody publishes when the leader dies under load.

A warm standby waits; the leader is ended with kill -9, or frozen with SIGSTOP. The clock runs until a `read_committed`
reader of the checkpoint topic sees the first checkpoint that the standby has written: events and checkpoint are one
Kafka transaction, so that is the standby's first commit, and what the dead leader left under way is never taken for it.

Prints one JSON object, and puts the named keys into bench/results/latest.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.rig import MEASURED, Checkpoints, RelayUnderTest, Rig, compile_bytecode, new_rig
from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack, temporary_folder

EVENTS_PER_SECOND = 500
WRITERS = 2
LEASE_SECONDS = 10.0
KILLS, FREEZES = 15, 3
# From one takeover to the next: the new leader is in its stride, the new standby warm.
SETTLE_SECONDS = 1.0
RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Takeover:
    """Seconds from the end of the leader: to the lock, to the stream, to the first commit that a reader sees."""

    led: float
    streamed: float
    committed: float


@contextlib.contextmanager
def load(rig: Rig) -> Iterator[None]:
    """One event per transaction at a steady rate, by threads of this process."""
    over = threading.Event()

    def write() -> None:
        outbox, due = Outbox(), time.monotonic()
        with psycopg.connect(rig.endpoints.app_dsn) as connection:
            while not over.wait(max(0.0, due - time.monotonic())):
                outbox.publish(connection, MEASURED({"key": "k", "sent_ns": time.time_ns(), "pad": bytes(120)}))
                connection.commit()
                due = max(due + WRITERS / EVENTS_PER_SECOND, time.monotonic() - 0.1)

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def take_over(rig: Rig, leader: RelayUnderTest, standby: RelayUnderTest, number: int, limit: float) -> Takeover:
    """End the leader with signal `number`, and time the standby."""
    standby.wait_for("standing_by")
    checkpoints = Checkpoints(rig)
    time.sleep(SETTLE_SECONDS)  # between two ends of leaders, so that each meets a relay at work
    reigning = checkpoints.writer_now()
    wall, started = time.time(), time.monotonic()
    leader.process.send_signal(number)
    checkpoints.wait_for_another(reigning, limit)
    committed = time.monotonic() - started
    checkpoints.close()
    standby.wait_streaming()
    return Takeover(standby.logged_at("lead_taken") - wall, standby.logged_at("stream_started") - wall, committed)


def measure(rig: Rig, kills: int, freezes: int) -> dict[str, Any]:
    """All takeovers, one after the other, the standby of one being the leader of the next."""
    killed: list[Takeover] = []
    frozen: list[Takeover] = []
    with load(rig):
        leader = rig.relay(DOVETAIL_RELAY__LEASE_SECONDS=str(LEASE_SECONDS))
        leader.wait_streaming()
        for round_number in range(kills + freezes):
            freeze = round_number >= kills
            standby = rig.relay(DOVETAIL_RELAY__LEASE_SECONDS=str(LEASE_SECONDS))
            number = signal.SIGSTOP if freeze else signal.SIGKILL
            found = take_over(rig, leader, standby, number, LEASE_SECONDS + 20)
            (frozen if freeze else killed).append(found)
            print(f"  {'SIGSTOP' if freeze else 'kill -9'}: {found}", file=sys.stderr, flush=True)
            leader.kill()
            leader = standby
        leader.stop()
    return {
        **_spread("takeover", [found.committed for found in killed]),
        **_spread("takeover_lock", [found.led for found in killed]),
        **_spread("takeover_stream", [found.streamed for found in killed]),
        **_spread("takeover_frozen", [found.committed for found in frozen]),
    }


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    found = sorted(seconds)
    at = {"min": found[0], "p50": statistics.median(found), "p90": found[int(len(found) * 0.9)], "max": found[-1]}
    return {f"{name}_{which}_s": round(value, 4) for which, value in at.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.takeover", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--freezes", type=int, default=FREEZES)
    options = parser.parse_args()
    compile_bytecode()
    stack = Stack(temporary_folder(), durable=True, temporary=True)
    stack.up(attached=True)
    try:
        with new_rig(stack) as rig:
            found = measure(rig, options.kills, options.freezes)
    finally:
        stack.down()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, **found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
