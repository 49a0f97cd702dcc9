"""What waits keeps its place in its key, whatever becomes of its route."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dovetail_local.stack import Stack
from support.operator import run
from support.stuck import cure, held_queue, order_of, out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def test_what_waits_keeps_its_place_where_its_route_names_another_topic_now(world: World) -> None:
    first = world.relay().wait_streaming()
    queue = held_queue(world)
    first.terminate()
    world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__TOPIC"] = moved = f"moved.{world.aggregate}"
    world.topic = moved
    world.init()
    world.relay().wait_streaming()
    (last, _) = write(world, ("bad", 9), ("good", 9))
    wait_until(lambda: ("good", 9) in out(world), 20, "the other key flows")
    assert parked(world)[-1] == ("bad", "behind")
    cure(world)
    run(world, "stuck", "release", "--id", last, "--yes", "--reason", "x")
    assert order_of(world, "bad") == [*queue, last]


def test_what_waits_keeps_its_place_while_its_route_is_gone_and_once_it_is_back(world: World) -> None:
    """The name of this type is none of a topic, so without a route it has none."""
    route = f"DOVETAIL_ROUTES__{world.name.upper()}"
    world.aggregate += " of a shop"
    world.topic = f"shop.{world.name}"
    world.environ |= {f"{route}__AGGREGATETYPE": world.aggregate, f"{route}__TOPIC": world.topic}
    world.init()
    first = world.relay().wait_streaming()
    queue = [write_unencodable(world, "bad")]
    wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it waits")
    first.terminate()
    without = world.relay(**{f"{route}__AGGREGATETYPE": "another"}).wait_streaming()
    queue.append(write_unencodable(world, "bad"))
    wait_until(lambda: parked(world)[1:] == [("bad", "unroutable")], 20, "what has no route waits too")
    without.terminate()
    world.relay().wait_streaming()
    cure(world)
    done = run(world, "stuck", "release", "--id", queue[1], "--yes", "--reason", "x")
    assert done["published"] == 2
    assert order_of(world, "bad") == queue
