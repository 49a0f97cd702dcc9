"""A row that PostgreSQL stores and cannot send: the relay says so by name, and what it says leads out."""

from __future__ import annotations

import json

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import dovetail
from support.stuck import out, parked, write
from support.waiting import wait_until
from support.world import World, new_world


def write_unsendable(world: World) -> None:
    """Compressed, and never whole in the server's memory: only the stream puts it together."""
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        connection.execute("CREATE TEMP TABLE document (body bytea, about jsonb)")
        connection.execute("INSERT INTO document (body) VALUES (convert_to(repeat('x', 900000000), 'UTF8'))")
        connection.execute("UPDATE document SET about = jsonb_build_object('a', repeat('x', 200000000))")
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, headers)"
            " SELECT gen_random_uuid(), %s, 'huge', 'Numbered', body, about FROM document",
            (world.aggregate,),
        )


@pytest.mark.timeout(400)
def test_a_row_of_more_than_a_gigabyte_is_named_and_the_way_out_publishes_what_is_behind_it(stack: Stack) -> None:
    with new_world(stack) as world:
        relay = world.relay().wait_streaming()
        write(world, ("before", 1))
        write_unsendable(world)
        write(world, ("behind", 1))
        wait_until(lambda: relay.has_logged("relay_halted"), 200, "it halts")
        status, body = relay.get("/readyz")
        slot = world.settings().relay.slot
        said = json.loads(body)
        assert (status, said["reason"]) == (503, "STREAM_REFUSED")
        assert said["next"] == f"dovetail slot drop --slot {slot}, then dovetail recover"
        assert relay.metrics("dovetail_relay_halted")['{reason="STREAM_REFUSED"}'] == 1
        for command in said["next"].split(", then "):
            if "slot drop" in command:
                wait_until(lambda: not world.slot_is_active(), 20, "nobody streams")
            code, printed, err = dovetail(world, *command.split()[1:], "--reason", "a test", "--yes")
            assert code == 0, printed + err
        wait_until(lambda: ("behind", 1) in out(world), 60, f"what is behind it is out:\n{relay.log()[-2000:]}")
        assert out(world) == [("before", 1), ("behind", 1)]
        assert parked(world) == [("huge", "too_large")]
        wait_until(lambda: relay.get("/readyz")[0] == 200, 60, "the relay is well")
