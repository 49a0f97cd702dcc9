"""`dovetail status EVENT_ID` says what happened to an event that is not simply published once."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Producer

from dovetail_local.stack import Stack
from support.operator import dovetail, run
from support.stuck import UNKNOWN, held_queue, out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def produce(world: World, event_id: str) -> None:
    """A record such as the relay writes."""
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    producer.produce(world.topic, b"x", b"k", headers=[("id", event_id.encode())])
    assert producer.flush(20) == 0


def test_what_is_parked_waits_or_was_given_up_says_so_and_what_to_type(world: World) -> None:
    world.relay().wait_streaming()
    head, behind, *_ = held_queue(world)
    code, said, finding = dovetail(world, "status", head)
    assert (code, f"{head}: parked" in said) == (4, True)
    assert f"(schema): schema {UNKNOWN.hex()}" in said
    assert "STUCK_MESSAGE: it is parked (schema); next: let its service register the schema" in finding
    assert f"then dovetail stuck release --id {head}" in finding
    code, said, finding = dovetail(world, "status", behind)
    assert (code, f"{behind}: waiting" in said) == (4, True)
    assert f"behind event {head} (schema)" in said
    assert f"next: dovetail stuck show {head}" in finding
    run(world, "stuck", "discard", "--id", head, "--yes", "--reason", "a test event")
    code, said, finding = dovetail(world, "status", head)
    assert (code, f"{head}: discarded" in said) == (0, True)
    assert "discarded by operator, command 1: a test event" in said
    assert f"dovetail replay --id {head}" in finding
    assert run(world, "status", behind)["state"] == "published"


def test_a_dead_letter_says_where_it_is(world: World) -> None:
    world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "skip"
    world.init()
    world.relay().wait_streaming()
    event_id = write_unencodable(world, "bad")
    wait_until(lambda: run(world, "status", event_id)["state"] == "dead_lettered", 20, "it is a dead letter")
    _, said, then = dovetail(world, "status", event_id)
    assert f"to {world.topic}.dead-letter at " in said
    assert f"next: dovetail tail {world.topic}.dead-letter --from-start" in then


def test_an_event_with_two_records_is_said_to_have_them(world: World) -> None:
    world.relay().wait_streaming()
    (event_id,) = write(world, ("k", 1))
    wait_until(lambda: out(world) == [("k", 1)], 20, "it is out")
    assert dovetail(world, "status", event_id)[0] == 0
    produce(world, event_id)
    code, said, finding = dovetail(world, "status", event_id)
    assert (code, said.count("published  ")) == (4, 2)
    assert "DOUBLED: 2 records carry it" in finding


def test_a_record_without_a_row_is_found_whatever_its_id_says_of_time(world: World) -> None:
    foreign = str(uuid4())
    produce(world, foreign)
    assert run(world, "status", foreign)["published"]["topic"] == world.topic
    _, _, said = dovetail(world, "status", str(uuid4()))
    assert "UNKNOWN_EVENT: no row of the outbox and no inbox row" in said
    assert world.topic in said


def test_an_event_that_is_lost_is_cured_by_the_command_that_status_names(world: World) -> None:
    """Lost as reconcile calls it: settled below the checkpoint, and in no topic."""
    relay = world.relay().wait_streaming()
    event_id = write_unencodable(world, "k")
    wait_until(lambda: len(parked(world)) == 1, 20, "it is passed over")
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute("DELETE FROM dovetail.parked")
    with world.writers(count=1, pause=0.05):
        wait_until(lambda: "NOT_PUBLISHED" in dovetail(world, "status", event_id)[2], 60, "it is settled, and lost")
    assert f"next: dovetail replay --id {event_id} --reason …" in dovetail(world, "status", event_id)[2]
    assert relay.process.poll() is None
