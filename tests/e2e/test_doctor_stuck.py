"""`dovetail doctor` beside a relay that cannot publish a message: it says so, whatever else is well."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import dovetail
from support.stuck import parked
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def write_unencodable(world: World) -> str:
    """An event whose schema nobody knows; its id."""
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        row = connection.execute("SELECT gen_random_uuid()::text").fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " VALUES (%s, %s, 'k', 'Numbered', %s, %s)",
            (row[0], world.aggregate, b"x", bytes(16)),
        )
    return str(row[0])


def checked(world: World) -> tuple[int, dict[str, dict[str, str]]]:
    code, out, _ = dovetail(world, "doctor", "--output", "json")
    return code, {row["check"]: row for row in json.loads(out)}


def test_a_relay_that_stands_before_a_message_fails_the_doctor_with_the_event_to_look_at(world: World) -> None:
    relay = world.relay(**{f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK": "halt"}).wait_streaming()
    code, found = checked(world)
    assert (code, found["dovetail.halted"]["status"], found["dovetail.parked"]["status"]) == (0, "ok", "ok")
    event = write_unencodable(world)
    wait_until(lambda: relay.get("/readyz")[0] == 503, 20, "the relay is halted")
    code, found = checked(world)
    assert (code, found["dovetail.halted"]["status"]) == (4, "fail")
    assert found["dovetail.halted"]["is"] == f"POISON_HELD: the relay stands before event {event} (schema)"
    assert found["dovetail.halted"]["next"] == f"dovetail stuck show {event}"
    assert dovetail(world, *found["dovetail.halted"]["next"].split()[1:])[0] == 0
    assert found["relay.process"]["status"] == "ok", "nobody is asked whose port is not known"
    world.environ["DOVETAIL_RELAY__HTTP_PORT"] = str(relay.port())
    said = checked(world)[1]["relay.process"]
    assert (said["status"], said["is"].endswith("has halted: POISON_HELD")) == ("fail", True)
    assert said["next"] == f"dovetail stuck show {event}"


def test_messages_that_wait_are_a_warning_with_the_command_that_lists_them(world: World) -> None:
    world.relay().wait_streaming()
    write_unencodable(world)
    write_unencodable(world)
    wait_until(lambda: len(parked(world)) == 2, 20, "both are parked")
    code, found = checked(world)
    assert (code, found["dovetail.parked"]["status"]) == (0, "warn")
    assert found["dovetail.parked"]["is"] == "messages that wait: 2, held keys: 1"
    assert found["dovetail.parked"]["next"] == "dovetail stuck list"
