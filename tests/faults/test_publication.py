"""A publication that changes under a relay, and the way back: what the relay, the doctor and `accept` say leads out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import Message

from dovetail_local.stack import Stack
from support.operator import dovetail
from support.own_table import NAMES, debezium, insert
from support.relay import RelayProcess
from support.waiting import wait_until
from support.world import World, new_world, read_records


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def execute(world: World, statement: str) -> None:
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def records(world: World) -> list[Message]:
    return read_records(world.endpoints.bootstrap_servers, world.topic)


def version(world: World) -> int:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return connection.info.server_version // 10_000


def halted(relay: RelayProcess) -> bool:
    status, body = relay.get("/readyz")
    return status == 503 and json.loads(body)["reason"] == "PUBLICATION_CHANGED"


def checked(world: World) -> tuple[int, dict[str, dict[str, str]]]:
    """The doctor's exit code, and what it found."""
    code, out, _ = dovetail(world, "doctor", "--output", "json")
    return code, {row["check"]: row for row in json.loads(out)}


def test_a_leaf_that_is_not_logged_halts_the_relay_until_it_is_again(world: World) -> None:
    relay = world.relay().wait_streaming()
    execute(world, "ALTER TABLE dovetail.outbox_5 SET UNLOGGED")
    wait_until(lambda: halted(relay), 20, f"the relay halts:\n{relay.log()[-1500:]}")
    code, found = checked(world)
    assert (code, found["dovetail.outbox_parts"]["status"]) == (4, "fail")
    execute(world, found["dovetail.outbox_parts"]["next"].split("; then ", maxsplit=1)[0])
    wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "the relay goes on")
    with world.writers(count=1):
        wait_until(lambda: bool(world.table()), 20, "something was written")
    world.wait_until_published()


def test_a_dropped_publication_is_made_again_by_what_the_doctor_says_and_every_event_goes_out_once(
    world: World,
) -> None:
    with world.writers(count=1):
        relay = world.relay().wait_streaming()
        execute(world, "DROP PUBLICATION dovetail")
        wait_until(lambda: halted(relay), 20, f"the relay halts:\n{relay.log()[-1500:]}")
        code, found = checked(world)
        statement, _, commands = found["dovetail.publication"]["next"].partition("; then ")
        drop = f"dovetail slot drop --slot {world.settings().relay.slot}"
        assert (code, commands) == (4, f"{drop}, dovetail relay accept, dovetail recover")
        execute(world, statement)
        # Whoever asks again in between is told what is left to do.
        left = commands.split(", ")
        while left:
            found = checked(world)[1]
            if "accept" in ", ".join(left):
                assert found["dovetail.publication_fingerprint"]["next"].split("; ")[0] == ", ".join(left)
            code, out, err = dovetail(world, *left.pop(0).split()[1:], "--reason", "it was dropped", "--yes")
            assert code == 0, out + err
        wait_until(lambda: relay.get("/readyz")[0] == 200, 20, f"the relay goes on:\n{relay.log()[-2500:]}")
    world.wait_until_published()
    books = world.books()
    assert books.ok, str(books)
    assert {row["status"] for row in checked(world)[1].values()} <= {"ok", "warn"}


def test_a_dropped_publication_of_another_table_is_made_again_by_what_the_doctor_says(stack: Stack) -> None:
    with debezium(stack, "text", NAMES) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__VALUE"] = "passthrough"
        world.init()
        relay = world.relay().wait_streaming()
        insert(world, NAMES, "before", "1")
        wait_until(lambda: len(records(world)) == 1, 20, "it is published")
        execute(world, f"DROP PUBLICATION {world.settings().outbox.publication}")
        wait_until(lambda: halted(relay), 20, f"the relay halts:\n{relay.log()[-1500:]}")
        insert(world, NAMES, "meanwhile", "2")
        statement, commands, again = checked(world)[1]["dovetail.publication"]["next"].split("; ")
        assert again == "insert again what was written meanwhile"
        execute(world, statement)
        if version(world) >= 18:
            assert commands == "then dovetail relay accept"
            code, out, err = dovetail(world, "relay", "accept", "--reason", "it was dropped", "--yes")
            assert code == 0, out + err
            wait_until(lambda: relay.get("/readyz")[0] == 200, 20, f"the relay goes on:\n{relay.log()[-2500:]}")
        else:
            drop, another, init = commands.removeprefix("then ").split(", ")
            assert (another, init) == ("another relay.name", "dovetail init")
            relay.terminate()
            code, out, err = dovetail(world, *drop.split()[1:], "--reason", "it was dropped", "--yes")
            assert code == 0, out + err
            world.environ["DOVETAIL_RELAY__NAME"] = f"{world.settings().relay.name}-2"
            world.init()
            relay = world.relay().wait_streaming()
        insert(world, NAMES, "meanwhile", "2")
        insert(world, NAMES, "after", "3")
        wait_until(lambda: len(records(world)) == 3, 20, f"all is out:\n{relay.log()[-2500:]}")
        assert sorted(record.value() for record in records(world)) == [b"1", b"2", b"3"]


def test_a_publication_of_another_shape_is_put_right_by_what_the_doctor_says(world: World) -> None:
    relay = world.relay().wait_streaming()
    execute(world, "ALTER PUBLICATION dovetail SET (publish = 'insert, update')")
    wait_until(lambda: halted(relay), 20, f"the relay halts:\n{relay.log()[-1500:]}")
    found = checked(world)[1]
    statement, _, then = found["dovetail.publication"]["next"].partition("; then ")
    assert then == "dovetail doctor, which says what comes behind it"
    assert "dovetail.publication_fingerprint" not in found, "first the one, then the other"
    with world.writers(count=1):
        execute(world, statement)
        said = checked(world)[1]["dovetail.publication_fingerprint"]["next"]
        assert said.endswith("; or, where nothing was written in between, dovetail relay accept alone")
        code, out, err = dovetail(world, "relay", "accept", "--reason", "put right", "--yes")
        assert code == 0, out + err
        wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "the relay goes on")
    world.wait_until_published()
    assert world.books().ok
