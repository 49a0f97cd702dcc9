"""What a relay leaves behind on the database's disk: no WAL when it is idle."""

from __future__ import annotations

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.servers import fresh_database
from support.waiting import wait_until
from support.world import World, new_world

NOISE_BYTES = 32 << 20
RETAINED = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots WHERE slot_name = %s"


def retained(world: World) -> int:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        row = connection.execute(RETAINED, (world.settings().relay.slot,)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_an_idle_outbox_pins_no_wal_while_another_database_writes(stack: Stack, mode: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world, fresh_database(stack) as neighbour:
        with world.writers(count=1) as writers:
            world.relay().wait_streaming()
            wait_until(lambda: writers.tally.transactions >= 3, 10, "some events are written")
        world.wait_until_published()
        before = retained(world)
        with psycopg.connect(neighbour.superuser_dsn, autocommit=True) as noisy:
            noisy.execute("CREATE TABLE noise (text text)")
            while retained(world) < before + NOISE_BYTES:
                noisy.execute("INSERT INTO noise SELECT repeat(md5(n::text), 30) FROM generate_series(1, 5000) AS n")
            wait_until(lambda: retained(world) < before + NOISE_BYTES // 8, 60, "the WAL of the noise is let go")
