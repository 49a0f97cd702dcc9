"""What a discard names is given up, nothing else is, and nothing of one that was withdrawn, whatever dies meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import want
from support.operator import run
from support.stuck import discarded, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

GO = ("--yes", "--reason", "a test")


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def write_large(world: World, key: str, number: int) -> str:
    """More than the producer takes, less than the relay takes in."""
    event = numbered(world.aggregate)({"key": "x" * 2_000_000, "number": number}, key=key)
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        return str(Outbox(max_payload_bytes=5_000_000).publish(connection, event))


def ask(world: World, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload]


def states(world: World) -> dict[str, str]:
    return {str(event): str(state) for event, state in ask(world, "SELECT id, state FROM dovetail.parked")}


def test_a_discard_by_class_gives_up_only_what_was_of_that_class_when_it_was_asked_for(world: World) -> None:
    world.relay().wait_streaming()
    first, second = write_large(world, "k", 1), write_large(world, "k", 2)
    wait_until(lambda: parked(world) == [("k", "refused"), ("k", "behind")], 20, "both wait")
    plan = run(world, "stuck", "discard", "--class", "refused", "--dry-run")
    assert (plan["discard_ids"], plan["publish_ids"]) == ([first], [second])
    done = run(world, "stuck", "discard", "--class", "refused", *GO)
    assert (done["discarded"], done["still_stuck"], done["first_stuck"]) == (1, 1, second)
    assert states(world) == {first: "discarded", second: "parked"}


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_discard_of_a_row_whose_batch_is_taken_again_gives_it_up(stack: Stack, mode: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world:
        world.relay().wait_streaming().terminate()
        bad = write_unencodable(world, "bad")
        killed = world.relay("-m", "dovetail_relay.crash", "parked", "1")
        assert killed.wait_ended() == -signal.SIGKILL
        assert parked(world) == [("bad", "schema")], "an operator sees it"
        discarded(world, bad)
        world.relay().wait_streaming()
        settled = "SELECT state, outcome FROM dovetail.command"
        wait_until(lambda: ask(world, settled)[0][0] == "done", 30, "it is done")
        assert ask(world, settled)[0][1] == "published 0, discarded 1, still stuck 0 with what is behind them"
        assert states(world) == {bad: "discarded"}


def test_a_discard_of_what_has_gone_out_meanwhile_says_so(world: World) -> None:
    relay = world.relay().wait_streaming()
    bad = write_unencodable(world, "bad")
    (good,) = write(world, ("good", 1))
    wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it waits")
    relay.terminate()
    discarded(world, bad, good)
    world.relay().wait_streaming()
    settled = "SELECT state, outcome FROM dovetail.command"
    wait_until(lambda: ask(world, settled)[0][0] == "done", 30, "it is done")
    assert str(ask(world, settled)[0][1]).endswith("; no longer stuck 1")
    assert states(world) == {bad: "discarded"}


def test_a_discard_that_was_withdrawn_before_its_row_was_passed_gives_nothing_up_when_the_relay_dies(
    world: World, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
    relay = world.relay("-m", "support.poisoned", SLOW=str(slow)).wait_streaming()
    bad = write_unencodable(world, "bad")
    wait_until(lambda: relay.has_logged("relay_halted"), 20, "it halts")
    slow.touch()
    command = discarded(world, bad)
    wait_until(lambda: '"message": "slow"' in relay.log(), 30, "the batch that passes the row is under way")
    want(world.settings(), command, "withdraw")
    wait_until(lambda: ask(world, "SELECT state FROM dovetail.command") == [("withdrawn",)], 20, "it is withdrawn")
    relay.kill()
    slow.unlink()
    relay = world.relay()
    wait_until(lambda: relay.has_logged("relay_halted"), 20, "the next leader stands before it")
    assert states(world) == {bad: "halting"}


def test_a_discard_that_was_written_by_hand_and_names_no_event_fails_by_name(world: World) -> None:
    world.relay().wait_streaming()
    bad = write_unencodable(world, "bad")
    wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it waits")
    discarded(world)
    wait_until(lambda: ask(world, "SELECT state FROM dovetail.command") == [("failed",)], 30, "it fails")
    ((outcome,),) = ask(world, "SELECT outcome FROM dovetail.command")
    assert str(outcome).startswith("it names no event; next: dovetail stuck discard")
    assert states(world) == {bad: "parked"}
