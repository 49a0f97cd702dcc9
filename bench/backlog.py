"""`python -m bench.backlog [ROWS]`: a large backlog drains at a constant rate and in constant memory.

Writes bench/results/backlog.json: a sample of rows per second and RSS for each tenth of the rows.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.rig import Rig, new_rig
from dovetail_local.stack import Stack, temporary_folder


def drain_in_tenths(rig: Rig, rows: int) -> list[dict[str, Any]]:
    """Fill, start the relay, and look at it ten times on the way."""
    with psycopg.connect(rig.endpoints.superuser_dsn, autocommit=True) as connection:
        # So much is written before the relay reads any of it.
        connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'")
        connection.execute("SELECT pg_reload_conf()")
    rig.fill(rows, per_transaction=100)
    relay = rig.relay()
    relay.wait_streaming()
    tenths: list[dict[str, Any]] = []
    seen, since = 0, time.monotonic()
    for tenth in range(1, 11):
        due = rows * tenth // 10
        relay.until(partial(_out, rig, due), f"{due} rows are out", 600)
        now = rig.published()
        took = time.monotonic() - since
        tenths.append({"rows": now, "rows_per_s": round((now - seen) / took), "rss_mb": round(relay.rss_mb(), 1)})
        print(json.dumps(tenths[-1]), file=sys.stderr, flush=True)
        seen, since = now, time.monotonic()
    relay.stop()
    return tenths


def _out(rig: Rig, rows: int) -> bool:
    return rig.published() >= rows


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    stack = Stack(temporary_folder(), durable=False, temporary=True)
    stack.up(attached=True)
    try:
        with new_rig(stack) as rig:
            tenths = drain_in_tenths(rig, rows)
    finally:
        stack.down()
    results = Path(__file__).parent / "results" / "backlog.json"
    results.write_text(json.dumps({"rows": rows, "tenths": tenths}, indent=2) + "\n")
    print(results.read_text())


if __name__ == "__main__":
    main()
