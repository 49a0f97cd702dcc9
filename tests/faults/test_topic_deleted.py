"""A topic that is deleted while events stream to it: its events wait with the reason, and all others flow."""

from __future__ import annotations

import psycopg
import pytest

from dovetail import register
from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from support.losses import client
from support.stuck import parked
from support.waiting import wait_until
from support.world import World, new_world, read_records
from support.writers import numbered


def publish(world: World, aggregate: str, *numbers: int) -> None:
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        for number in numbers:
            Outbox().publish(connection, numbered(aggregate)({"key": "k", "number": number}))


def published(world: World, aggregate: str) -> int:
    return len(read_records(world.endpoints.bootstrap_servers, f"outbox.event.{aggregate}"))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_topic_that_is_deleted_while_events_stream_to_it_holds_up_its_own_events_only(
    stack: Stack, mode: str
) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world:
        other = f"other-{world.name}"
        route = f"DOVETAIL_ROUTES__OTHER{world.name.upper()}"
        world.environ |= {f"{route}__AGGREGATETYPE": other, f"{route}__PARTITIONS": "3"}
        world.init()
        with psycopg.connect(world.endpoints.app_dsn) as connection:
            register(connection, numbered(other))
        relay = world.relay().wait_streaming()
        publish(world, world.aggregate, 1)
        publish(world, other, 1)
        wait_until(lambda: published(world, world.aggregate) == published(world, other) == 1, 20, "both are out")
        client(world).delete_topics([world.topic])[world.topic].result()
        publish(world, world.aggregate, 2)
        publish(world, other, 2)
        wait_until(lambda: published(world, other) == 2, 60, f"the other flows:\n{relay.log()[-2500:]}")
        wait_until(lambda: parked(world) == [("k", "topic")], 20, "and this one waits, with the reason")
        assert not relay.ended
