"""What a release leaves behind that does not go to its end, or cannot take all along: it is seen, with what to type."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import dovetail, release_and_pause, run
from support.stuck import cure, held_queue, order_of, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world

GO = ("--yes", "--reason", "x")


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="1") as made:
        yield made


def next_command(said: str) -> list[str]:
    """The arguments of the `dovetail` that a line says to type next, up to the first comma."""
    _, _, words = said.rpartition("next: dovetail ")
    return words.split(",")[0].split()


def test_the_rest_of_a_queue_whose_release_was_withdrawn_is_listed_and_what_is_said_next_lets_it_out(
    world: World,
) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    cure(world)
    release_and_pause(world, queue)
    assert run(world, "stuck", "release", "--withdraw", "--reason", "enough")["state"] == "withdrawn"
    left = queue[len(queue) - len(parked(world)) :]
    (row,) = run(world, "stuck", "list")
    assert (row["id"], row["reason"], row["waiting"]) == (left[0], "behind", len(left) - 1)
    assert row["message"] == "nothing is before it any more: it can go out"
    assert len(run(world, "stuck", "list", "--behind")) == len(left)
    code, _, said = dovetail(world, "status", left[0])
    assert (code, f"next: dovetail stuck release --id {left[0]}" in said) == (4, True), said
    code, out, said = dovetail(world, "stuck", "show", "--output", "json")
    assert (code, json.loads(out)["id"]) == (0, left[0])
    done = run(world, *next_command(said), *GO)
    assert (done["state"], done["published"]) == ("done", len(left))
    assert order_of(world, "bad") == queue
    assert run(world, "stuck", "list") == []


def test_a_release_of_the_message_that_halts_the_relay_says_that_it_is_stuck_still(world: World) -> None:
    world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
    relay = world.relay().wait_streaming()
    event_id = write_unencodable(world, "bad")
    wait_until(lambda: relay.has_logged("relay_halted"), 20, "it halts")
    code, out, said = dovetail(world, "stuck", "release", "--all", "--output", "json", *GO)
    done = json.loads(out)
    assert (code, done["still_stuck"], done["first_stuck"]) == (4, 1, event_id)
    assert done["outcome"].endswith("the relay stands before one, and goes on by itself once its cause is gone")
    assert f"STILL_STUCK: 1 stuck with what is behind them; next: dovetail stuck show {event_id}" in said
    cure(world)
    wait_until(lambda: order_of(world, "bad") == [event_id], 20, "it goes out by itself")


def test_a_message_that_was_never_taken_in_keeps_its_size_when_it_is_released_in_vain(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_OUTBOX__MAX_ROW_BYTES="70000") as world:
        world.relay().wait_streaming()
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            connection.execute(
                "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
                " VALUES (gen_random_uuid(), %s, 'bad', 'Numbered', decode(repeat('00', 100000), 'hex'))",
                (world.aggregate,),
            )
        wait_until(lambda: parked(world) == [("bad", "too_large")], 20, "it is parked")
        (before,) = run(world, "stuck", "list")
        code, _, said = dovetail(world, "stuck", "release", "--all", *GO)
        assert (code, f"next: dovetail stuck show {before['id']}" in said) == (4, True), said
        assert run(world, "stuck", "list") == [before]
        _, _, said = dovetail(world, "stuck", "show", before["id"])
        assert f"next: dovetail stuck discard --id {before['id']} --reason …; raise outbox.max_row_bytes" in said


def test_a_replay_of_a_message_that_is_over_the_relays_own_limit_blames_no_topic(stack: Stack) -> None:
    with new_world(stack) as world:
        world.relay().wait_streaming()
        (event_id,) = write(world, ("good", 1), headers={"x": "y" * 3000})
        wait_until(lambda: order_of(world, "good") == [event_id], 20, "it is published")
        world.relays[0].terminate()
        world.relay(**{"DOVETAIL_KAFKA__MESSAGE.MAX.BYTES": "2000"}).wait_streaming()
        code, out, said = dovetail(world, "replay", "--id", event_id, *GO)
        assert (code, "COULD_NOT_GO_OUT: 1 of the events" in said) == (4, True), out + said
        assert 'MSG_SIZE_TOO_LARGE, the limit is kafka."message.max.bytes" or the topic\'s' in out
