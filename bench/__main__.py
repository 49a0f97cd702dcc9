"""`make bench`: every figure from one run on one machine, as ratios to something real beside it.

Prints a table, and writes bench/RESULTS.md and bench/results/latest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import latency, takeover
from bench.drain import Drain, bare_producer, drain
from bench.footprint import footprint
from bench.rig import compile_bytecode, new_rig
from bench.sdk_cost import publish_to_insert
from dovetail_local.stack import Stack, temporary_folder

HERE = Path(__file__).parent
RATES = (500, 2000)
TAKEOVER = (
    ("takeover_lock", "kill -9, the standby has the lock"),
    ("takeover_stream", "kill -9, the standby streams"),
    ("takeover", "kill -9, a reader sees the standby's first commit"),
    ("takeover_frozen", f"SIGSTOP, the same, with a lease of {takeover.LEASE_SECONDS:g} s"),
)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def run(rows: int, seconds: float, repeats: int) -> dict[str, Any]:
    """All sections, one after the other: what measures runs alone."""
    compile_bytecode()
    found: dict[str, Any] = {"rows": rows}
    stack = Stack(temporary_folder(), durable=True, temporary=True)
    with _running(stack):
        with new_rig(stack) as rig:
            say("footprint and first publish")
            foot = footprint(rig)
            found |= {
                "rss_idle_mb": foot.rss_idle_mb,
                "idle_cpu_percent": foot.idle_cpu_percent,
                "first_publish_s": foot.first_publish_s,
            }
            say("SDK beside a raw INSERT")
            found["publish_to_insert"] = publish_to_insert(rig)
        with new_rig(stack) as rig:
            say("takeover")
            found |= takeover.measure(rig, takeover.KILLS, takeover.FREEZES)
        found["latency"] = []
        with new_rig(stack) as rig:
            for mode in ("exactly_once", "at_least_once"):
                relay = rig.relay(DOVETAIL_DELIVERY__MODE=mode)
                relay.wait_streaming()
                for rate in RATES:
                    say(f"latency, {mode}, {rate} events/s")
                    measured = latency.through_the_outbox(rig, rate, seconds, writers=2 if rate <= 500 else 4)
                    found["latency"].append({"mode": mode, **_fields(measured)})
                relay.stop()
            for rate in RATES:
                say(f"latency floor, {rate} events/s")
                found["latency"].append({"mode": "floor", **_fields(latency.floor(rig, rate, seconds))})
        found["drain"] = []
        for mode in ("exactly_once", "at_least_once"):
            for repeat in range(repeats):
                say(f"drain, {mode}, {rows} rows, run {repeat + 1} of {repeats}")
                with new_rig(stack) as rig:
                    found["drain"].append({**_drained(drain(rig, mode, rows))})
        with new_rig(stack) as rig:
            say("bare producer")
            found["bare_producer_rows_per_s"] = bare_producer(rig, rows)
    return found | summary(found)


class _running:  # noqa: N801 - a context manager written as one
    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __enter__(self) -> None:
        self._stack.up(attached=True)

    def __exit__(self, *_: object) -> None:
        self._stack.down()


def _fields(measured: latency.Latency) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in ("rate", "p50", "p99", "worst", "events")}


def _drained(found: Drain) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Drain.__slots__} | {"to_ceiling": found.to_ceiling}


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The named keys: medians over the runs."""

    def drained(mode: str, key: str) -> float:
        return statistics.median(entry[key] for entry in found["drain"] if entry["mode"] == mode)

    def seen(mode: str, key: str) -> float:
        return next(entry[key] for entry in found["latency"] if entry["mode"] == mode and entry["rate"] == RATES[0])

    return {
        "drain_exactly_once_to_ceiling": drained("exactly_once", "to_ceiling"),
        "drain_at_least_once_to_ceiling": drained("at_least_once", "to_ceiling"),
        "latency_p50_ms": seen("exactly_once", "p50"),
        "latency_p99_ms": seen("exactly_once", "p99"),
        "latency_floor_p99_ms": seen("floor", "p99"),
        "rss_load_mb": drained("exactly_once", "peak_rss_mb"),
        "cpu_s_per_100k": drained("exactly_once", "cpu_s_per_100k"),
    }


def machine() -> str:
    """Named in the results: a ratio travels, a number does not."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def report(found: dict[str, Any]) -> str:
    """RESULTS.md."""
    lines = [
        "# Results",
        "",
        f"Runs of `make bench` on {machine()}; PostgreSQL 18, Apache Kafka 4.1 with one broker, all on that machine.",
        "Ratios travel between machines, absolute numbers do not. The ceiling is `pg_recvlogical` reading the same rows",
        "to /dev/null just before and just after.",
        "",
        "| drain | rows/s | ceiling rows/s | to ceiling | CPU s per 100,000 | peak RSS MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {entry['mode']} | {entry['rows_per_second']:,.0f} | {entry['ceiling_before']:,.0f}, {entry['ceiling_after']:,.0f} "
        f"| {entry['to_ceiling']:.2f} | {entry['cpu_s_per_100k']:.2f} | {entry['peak_rss_mb']:.0f} |"
        for entry in found["drain"]
    ]
    lines += [
        f"| bare producer | {found['bare_producer_rows_per_s']:,.0f} | | | | |",
        "",
        "| commit to consumer, ms | events/s | p50 | p99 | max | events |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {entry['mode']} | {entry['rate']} | {entry['p50']:.1f} | {entry['p99']:.1f} | {entry['worst']:.1f} | {entry['events']} |"
        for entry in found["latency"]
    ]
    lines += [
        "",
        f"Idle: {found['rss_idle_mb']:.0f} MB, {found['idle_cpu_percent']:.2f} % of one core. "
        f"From process start to the first publish: {found['first_publish_s']:.2f} s (median of 5). "
        f"`publish` takes {found['publish_to_insert']:.2f} times a raw INSERT of the same row.",
        "",
        "| a leader ends under load, s until | min | p50 | p90 | max |",
        "|---|---|---|---|---|",
        *(_takeover(found, key, words) for key, words in TAKEOVER),
        "",
    ]
    return "\n".join(lines)


def _takeover(found: dict[str, Any], key: str, words: str) -> str:
    at = " | ".join(f"{found[f'{key}_{which}_s']:.2f}" for which in ("min", "p50", "p90", "max"))
    return f"| {words} | {at} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = run(options.rows, options.seconds, options.repeats)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "latest.json").write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n")
    (HERE / "RESULTS.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()
