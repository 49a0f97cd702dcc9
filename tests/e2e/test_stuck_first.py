"""What an operator is led to, where several messages are stuck: the one that holds up everything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import run
from support.stuck import parked, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def halted(stack: Stack) -> Iterator[tuple[World, str]]:
    """A relay that halts before one message while an older one of another route waits; the id of the former."""
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
        relay = world.relay().wait_streaming()
        world.environ["DOVETAIL_RELAY__HTTP_PORT"] = str(relay.port())
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            connection.execute(
                "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
                " VALUES (gen_random_uuid(), %s, 'older', 'Numbered', '\\x00')",
                (f"nowhere-{world.name}",),
            )
        wait_until(lambda: len(parked(world)) == 1, 20, "the older one waits")
        event_id = write_unencodable(world, "bad")
        relay.wait_for_log("relay_halted")
        yield world, event_id


def test_the_message_that_halts_the_relay_is_shown_before_an_older_one_of_another_route(
    halted: tuple[World, str],
) -> None:
    world, event_id = halted
    shown = run(world, "stuck", "show")
    assert (shown["id"], shown["state"]) == (event_id, "halting")
    (problem,) = run(world, "status", code=4)["problems"]
    assert (problem["name"], problem["next"]) == ("POISON_HELD", f"dovetail stuck show {event_id}")
    _, body = world.relays[0].get("/readyz")
    assert json.loads(body)["next"] == f"dovetail stuck show {event_id}"


def test_one_key_that_waits_in_two_topics_is_two_queues_and_an_unknown_reason_is_refused(
    halted: tuple[World, str],
) -> None:
    world, _ = halted
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute("UPDATE dovetail.parked SET aggregateid = 'same'")
    assert run(world, "stuck", "release", "--all", "--dry-run")["keys"] == 2
    said = run(world, "stuck", "list", "--class", "bogus", code=2)
    assert "'bogus' is none of schema, unroutable, topic, refused, too_large" in said
    assert "next: " in said
