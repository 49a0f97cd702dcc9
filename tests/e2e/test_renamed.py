"""A table or a column that bears another name for a while: its rows are the outbox's all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.own_table import NAMES, debezium, insert
from support.topic import headers, messages
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def owner(world: World, *statements: str) -> None:
    """In one transaction."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def row(world: World, table: str, number: int, payload: str = "payload") -> str:
    event = numbered(world.aggregate)
    body = event.codec.encode({"key": "k", "number": number}).hex()
    return (
        f"INSERT INTO {table} (id, aggregatetype, aggregateid, type, {payload}, schema_fingerprint, headers)"
        f" VALUES (gen_random_uuid(), '{world.aggregate}', 'k', 'Numbered', '\\x{body}',"
        f" '\\x{event.fingerprint.hex()}', '{{\"n\": \"{number}\"}}')"
    )


@pytest.mark.parametrize("up", [True, False], ids=["relay up", "relay down"])
def test_rows_that_were_written_under_another_name_of_the_outbox_are_published(world: World, up: bool) -> None:
    relay = world.relay().wait_streaming()
    owner(world, row(world, "dovetail.outbox", 1))
    wait_until(lambda: len(world.read_topic()) == 1, 20, "the first is out")
    if not up:
        relay.terminate()
    owner(
        world,
        "ALTER TABLE dovetail.outbox RENAME TO elsewhere",
        row(world, "dovetail.elsewhere", 2),
        "ALTER TABLE dovetail.elsewhere RENAME TO outbox",
    )
    owner(world, row(world, "dovetail.outbox", 3))
    if not up:
        relay = world.relay().wait_streaming()
    wait_until(lambda: len(world.read_topic()) == 3, 30, f"all are out:\n{relay.log()[-1500:]}")
    assert [seen.number for seen in world.read_topic()] == [1, 2, 3]


@pytest.mark.parametrize("column", ["payload", "headers"])
def test_rows_that_were_written_while_a_column_had_another_name_are_whole(world: World, column: str) -> None:
    relay = world.relay().wait_streaming()
    renamed = row(world, "dovetail.outbox", 1).replace(f"{column}, schema" if column == "payload" else "headers)", "?")
    renamed = renamed.replace("?", "other, schema" if column == "payload" else "other)")
    owner(
        world,
        f"ALTER TABLE dovetail.outbox RENAME COLUMN {column} TO other",
        renamed,
        f"ALTER TABLE dovetail.outbox RENAME COLUMN other TO {column}",
        row(world, "dovetail.outbox", 2),
    )
    wait_until(lambda: len(world.read_topic()) == 2, 30, f"both are out:\n{relay.log()[-1500:]}")
    found = messages(world.endpoints.bootstrap_servers, world.topic, 2)
    assert [headers(message)["n"] for message in found] == ["1", "2"]


@pytest.mark.parametrize("up", [True, False], ids=["relay up", "relay down"])
def test_rows_of_a_table_of_somebody_elses_are_published_whatever_it_was_called(stack: Stack, up: bool) -> None:
    with debezium(stack, "jsonb", NAMES) as world:
        world.install()
        relay = world.relay().wait_streaming()
        insert(world, NAMES, "k", json.dumps(1))
        messages(world.endpoints.bootstrap_servers, world.topic, 1)
        if not up:
            relay.terminate()
        owner(
            world,
            "ALTER TABLE public.outboxevent RENAME TO parked_aside",
            "ALTER TABLE public.parked_aside RENAME COLUMN payload TO body",
            "INSERT INTO public.parked_aside (id, aggregatetype, aggregateid, type, body)"
            f" VALUES (gen_random_uuid(), '{world.aggregate}', 'k', 'Placed', '2')",
            "ALTER TABLE public.parked_aside RENAME COLUMN body TO payload",
            "ALTER TABLE public.parked_aside RENAME TO outboxevent",
        )
        insert(world, NAMES, "k", json.dumps(3))
        if not up:
            relay = world.relay().wait_streaming()
        found = messages(world.endpoints.bootstrap_servers, world.topic, 3)
        assert [json.loads(message.value()) for message in found] == [1, 2, 3]
