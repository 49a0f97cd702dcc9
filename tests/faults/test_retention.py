"""What a relay leaves behind on the database's disk: no WAL when it is idle, no rows of long ago."""

from __future__ import annotations

import psycopg
import pytest

from dovetail_local.stack import Stack
from dovetail_relay.retention import LEAVES
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


OLD = """
INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, bucket, created_at)
SELECT gen_random_uuid(), aggregatetype, aggregateid, type, payload, schema_fingerprint, %(day)s %% %(leaves)s,
    to_timestamp(%(day)s * 86400 + 60)
FROM dovetail.outbox LIMIT 1
"""


def test_a_relay_at_work_empties_the_leaf_of_a_day_past_its_window_once_its_events_are_out(stack: Stack) -> None:
    with new_world(stack) as world, psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as owner:
        with world.writers(count=1) as writers:
            relay = world.relay("-m", "support.hasty").wait_streaming()
            wait_until(lambda: writers.tally.transactions >= 3, 10, "some events are written")
            # The oldest day of the ring, whose leaf is tomorrow's.
            day = owner.execute("SELECT floor(date_part('epoch', now()))::bigint / 86400").fetchone()[0] - LEAVES + 1
            owner.execute(OLD, {"day": day, "leaves": LEAVES})
            written = len(world.table())
            relay.wait_for_log("leaf_emptied", 60)
        world.wait_until_published()
        left = "SELECT count(*) FROM dovetail.outbox WHERE created_at < now() - interval '2 days'"
        assert owner.execute(left).fetchone() == (0,)
        # It went out before it went.
        wait_until(lambda: len(world.read_topic()) == len(world.table()) + 1 > written, 20, "it is in the topic")
        assert not relay.has_logged("books_unbalanced")
