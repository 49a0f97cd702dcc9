"""kill -9 of the relay: at each named step of the algorithm, and at random under load."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from dovetail_local.stack import Stack
from dovetail_relay.crash import STEPS
from support.waiting import after, wait_until
from support.world import World, new_world


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_step_neither_loses_nor_doubles(world: World, step: str) -> None:
    with world.writers(seed=STEPS.index(step)) as writers:
        for nth in (1, 3):
            repeats = step in {"lead", "fenced", "read", "admitted", "streaming"}
            killed = world.relay("-m", "dovetail_relay.crash", step, "1" if repeats else str(nth))
            assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
        survivor = world.relay()
        survivor.wait_streaming()
    world.wait_until_published()
    survivor.kill()
    books = world.books(writers.tally.rolled_back_ids)
    assert books.ok, str(books)
    assert books.committed == books.published > 0


@pytest.mark.random_kills
@pytest.mark.timeout(1800)
def test_random_kills_under_load_neither_lose_nor_double(stack: Stack, pytestconfig: pytest.Config) -> None:
    kills = pytestconfig.getoption("--kills")
    chance = random.Random(20)
    with new_world(stack) as world:
        with world.writers(count=3) as writers:
            for _ in range(kills):
                relay = world.relay()
                # From before it leads to well into its work.
                if chance.random() < 0.8:
                    relay.wait_streaming()
                wait_until(after(chance.random() * 0.4), 5, "the moment of the kill has come")
                relay.signal(signal.SIGKILL)
                assert relay.wait_ended() == -signal.SIGKILL
                relay.kill()
            world.relay().wait_streaming()
        world.wait_until_published()
        books = world.books(writers.tally.rolled_back_ids)
        print(f"{kills} kills: {books}")
        assert books.ok, str(books)
        assert books.committed == books.published > kills


def test_a_relay_that_ignores_its_checkpoint_is_caught(stack: Stack) -> None:
    with new_world(stack) as world:
        with world.writers() as writers:
            for _ in range(3):
                planted = world.relay("-m", "support.planted", "checkpoint_ignored", "committed", "4")
                assert planted.wait_ended() == -signal.SIGKILL, planted.log()[-2000:]
            world.relay("-m", "support.planted", "checkpoint_ignored").wait_streaming()
        world.wait_until_published()
        books = world.books(writers.tally.rolled_back_ids)
        assert books.duplicated, str(books)
        assert not books.lost
