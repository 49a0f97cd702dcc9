"""What a reign has in memory goes with it, however often a process leads."""

from __future__ import annotations

import psycopg

from dovetail_local.stack import Stack
from support.waiting import wait_until
from support.world import new_world

REIGNS = 6


def test_no_reign_stays_in_memory_when_the_next_begins(stack: Stack) -> None:
    with new_world(stack) as world:
        relay = world.relay("-m", "support.counted").wait_streaming()

        def counted() -> list[int]:
            return [int(str(line["reigns"])) for line in relay.events() if "reigns" in line]

        with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as server:
            for number in range(1, REIGNS):
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND usename = 'relay'"
                )
                wait_until(lambda: len(counted()) > number, 30, "it leads again")  # noqa: B023
                relay.wait_streaming()
        assert set(counted()) == {0}, counted()
