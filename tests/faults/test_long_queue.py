"""A recovery without a checkpoint where very many messages wait behind one key."""

from __future__ import annotations

import psycopg

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import submit
from support.losses import checkpoint_lost
from support.stuck import write, write_unencodable
from support.waiting import wait_until
from support.world import new_world
from support.writers import numbered

COUNT = 8000


def test_a_long_queue_is_judged_again_within_the_patience_of_a_standby(stack: Stack) -> None:
    """In a time that grew with the square of the queue the leader was evicted, and the next one began again."""
    with new_world(stack, DOVETAIL_RELAY__LEASE_SECONDS="2") as world:
        relay = world.relay().wait_streaming()
        write_unencodable(world, "k")
        row = Outbox().row(numbered(world.aggregate)({"key": "k", "number": 1}))

        def ask(statement: str, *values: object) -> list[tuple[object, ...]]:
            with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
                cursor = connection.execute(statement, values)  # type: ignore[call-overload]
                return cursor.fetchall() if cursor.description else []

        ask(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, 'k', 'Numbered', %s, %s FROM generate_series(1, %s::int)",
            world.aggregate, row.payload, row.schema_fingerprint, COUNT,
        )  # fmt: skip
        wait_until(lambda: ask("SELECT count(*) FROM dovetail.parked") == [(COUNT + 1,)], 60, "they wait")
        write(world, ("good", 1))
        wait_until(lambda: len(world.read_topic()) == 1, 20, "the other key flows")
        relay.kill()
        checkpoint_lost(world, None)  # type: ignore[arg-type]
        submit(world.settings(), "recover", {"new_epoch": False}, reason="a test")
        leader, standby = world.relay(), world.relay()
        wait_until(lambda: ask("SELECT state FROM dovetail.command") == [("done",)], 60, "it is done")
        assert not any(one.has_logged("stale_leader_ended") for one in (leader, standby))
        assert ask("SELECT count(*) FROM dovetail.parked") == [(COUNT + 1,)]
