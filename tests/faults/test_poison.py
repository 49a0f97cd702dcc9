"""A row that ends the relay's process is found wherever it stands, and what is done about it is done once."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psycopg
import pytest

from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import submit
from support.losses import checkpoint_lost
from support.relay import RelayProcess
from support.stuck import cure, discarded, held_queue, order_of, out, parked, write
from support.waiting import after, wait_until
from support.world import World, new_world

MODES = pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])


def started_until(world: World, done: Callable[[], object], *, at: str = "kill", most: int = 25) -> RelayProcess:
    """An orchestrator's loop: a relay is started again each time it ends; the one under which it is done."""
    for _ in range(most):
        relay = world.relay("-m", "support.poisoned", POISONED=at)
        wait_until(lambda: relay.ended or done(), 90, "it ends, or is through")  # noqa: B023
        if not relay.ended:
            return relay
        assert relay.wait_ended() == -signal.SIGKILL, relay.log()[-2000:]
    raise AssertionError(f"{most} processes ended; parked is {parked(world)}, out is {len(out(world))}")


@MODES
def test_several_rows_that_end_the_process_are_found_behind_others(stack: Stack, mode: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world:
        world.relay().wait_streaming().terminate()
        for row in (("good", 1), ("poison-1", 1), ("good", 2), ("poison-2", 1), ("good", 3)):
            write(world, row)
        started_until(world, lambda: ("good", 3) in out(world))
        assert parked(world) == [("poison-1", "crash"), ("poison-2", "crash")]
        assert set(out(world)) == {("good", 1), ("good", 2), ("good", 3)}
        assert mode == "at_least_once" or len(out(world)) == 3


@MODES
def test_a_row_that_ends_the_process_is_found_before_the_slot_in_both_modes(stack: Stack, mode: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world:
        world.forget_the_slot()
        write(world, ("good", 1), ("poison", 1), ("good", 2))
        world.init()
        started_until(world, lambda: ("good", 2) in out(world), at="intake")
        assert parked(world) == [("poison", "crash")]


def test_a_row_far_behind_the_checkpoint_is_found_and_no_innocent_one_is_parked(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="10") as world:
        world.relay().wait_streaming().terminate()
        ahead = 3900
        write(world, *[("good", number) for number in range(1, ahead + 1)])
        write(world, ("poison", 1), ("good", ahead + 1))
        started_until(world, lambda: parked(world), at="intake")
        wait_until(lambda: len(out(world)) == ahead + 1, 60, "all others are out")
        assert parked(world) == [("poison", "crash")]
        assert out(world) == [("good", number) for number in range(1, ahead + 2)]


def test_a_relay_that_halts_before_such_a_row_stays_halted_and_passes_over_it_when_told(stack: Stack) -> None:
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
        world.relay().wait_streaming().terminate()
        write(world, ("good", 1))
        (poison,) = write(world, ("poison", 1))
        write(world, ("good", 2))

        def halted() -> bool:
            return world.relays[-1].has_logged("relay_halted")

        relay = started_until(world, halted)
        wait_until(lambda: relay.ended or relay.log().count('"lead_taken"') >= 3, 40, "it has looked again, twice")
        assert not relay.ended
        assert relay.get("/readyz")[0] == 503
        relay.kill()
        relay = world.relay("-m", "support.poisoned", POISONED="kill")
        wait_until(lambda: relay.ended or relay.has_logged("relay_halted"), 40, "the next process halts as well")
        assert not relay.ended
        discarded(world, poison)
        wait_until(lambda: relay.ended or ("good", 2) in out(world), 40, "what is behind it goes out")
        assert out(world) == [("good", 1), ("good", 2)]


def test_a_row_that_halts_the_relay_gets_another_chance_as_its_page_says(stack: Stack) -> None:
    with new_world(stack) as world:
        policy = f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"
        world.environ[policy] = "halt"
        world.relay().wait_streaming().terminate()
        write(world, ("poison", 1), ("good", 1))
        started_until(world, lambda: world.relays[-1].has_logged("relay_halted")).terminate()
        world.environ[policy] = "hold"
        world.relay().wait_streaming()
        wait_until(lambda: parked(world) == [("poison", "crash")], 30, "it holds its key")
        submit(world.settings(), "release", {"upto": 1000}, reason="a test")
        wait_until(lambda: out(world) == [("good", 1), ("poison", 1)], 30, "both are out")


def test_a_release_whose_leaders_are_killed_is_done_by_the_next(stack: Stack) -> None:
    with new_world(stack) as world:
        relay = world.relay().wait_streaming()
        queue = held_queue(world)
        relay.terminate()
        cure(world)
        submit(world.settings(), "release", {"upto": 1000, "rate": 2.0}, reason="a test")
        for _ in range(2):
            assert world.relay("-m", "dovetail_relay.crash", "begin", "1").wait_ended() == -signal.SIGKILL
        relay = world.relay()
        wait_until(lambda: relay.ended or not parked(world), 30, "all is out")
        wait_until(after(1), 5, "it had the time to end")
        assert not relay.ended, relay.log()[-1000:]
        assert order_of(world, "bad") == queue


@MODES
def test_a_kept_queue_whose_release_committed_before_the_checkpoint_was_lost_goes_out_once(
    stack: Stack, mode: str
) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode) as world:
        relay = world.relay("-m", "support.poisoned", POISONED="raise").wait_streaming()
        queue = [*write(world, ("poison", 1)), *write(world, ("poison", 2)), *write(world, ("poison", 3))]
        wait_until(lambda: len(parked(world)) == 3, 20, "they are parked")
        relay.terminate()
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            # As if the first had ended its process: then a recovery leaves its queue as it is.
            connection.execute("UPDATE dovetail.parked SET reason = 'crash' WHERE id = %s", (queue[0],))
        submit(world.settings(), "release", {"upto": 1000, "rate": 2.0}, reason="a test")
        killed = world.relay("-m", "dovetail_relay.crash", "committed", "1")
        assert killed.wait_ended() == -signal.SIGKILL
        assert order_of(world, "poison") == queue[:2]
        checkpoint_lost(world, None)
        submit(world.settings(), "recover", {"new_epoch": False}, reason="a test")
        world.relay().wait_streaming()
        wait_until(lambda: len(parked(world)) == 1, 30, f"what is out waits no longer: {parked(world)}")
        submit(world.settings(), "release", {"upto": 1000}, reason="a test")
        wait_until(lambda: not parked(world), 30, "the rest is released")
        wait_until(lambda: order_of(world, "poison") == queue, 30, "each went out once")
