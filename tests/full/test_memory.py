"""The relay under a limit of memory, which the kernel enforces."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from dovetail_local.stack import Stack
from support.bulk import Bulk
from support.relay import RUN, RelayProcess
from support.root import Memory
from support.waiting import wait_until
from support.world import World, new_world

ENOUGH_MB, TOO_LITTLE_MB, UNLIMITED_MB = 200, 6, 1 << 14
EVENTS, ROWS, AT_ONCE = 100_000, 200_000, 5_000
# Fewer than after which the relay takes a row for the reason.
DEATHS, MOST_TRANSACTIONS = 3, 20


@pytest.fixture
def limited() -> Iterator[Callable[[int], Memory]]:
    """Makes limits; asked for before the relays that live under them."""
    with ExitStack() as made:

        def limit(megabytes: int) -> Memory:
            memory = Memory(megabytes)
            made.callback(memory.close)
            return memory

        yield limit


@pytest.fixture
def world(limited: Callable[[int], Memory], stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def under(memory: Memory, world: World) -> RelayProcess:
    return world.relay(*memory.arguments(*RUN))


def published(world: World, relay: RelayProcess, position: int) -> None:
    """Everything before `position` is out, and the relay is the same process still."""

    def done() -> bool:
        assert relay.process.poll() is None, f"ended with {relay.process.returncode}: {relay.log()[-2000:]}"
        return world.confirmed_flush() > position

    wait_until(done, 120, "all is confirmed")


@pytest.fixture
def idle_mb(world: World, limited: Callable[[int], Memory]) -> tuple[int, bool]:
    """What a relay takes before its first event, by the measure of the limit; and whether that is a control group."""
    memory = limited(UNLIMITED_MB)
    relay = under(memory, world).wait_streaming()
    found = memory.peak_mb(relay.process.pid)
    assert relay.terminate() == 0
    return found, memory.is_group


def test_in_enough_memory_the_relay_lives_through_many_events_and_a_large_transaction(
    world: World, limited: Callable[[int], Memory], idle_mb: tuple[int, bool]
) -> None:
    idle, is_group = idle_mb
    memory = limited(ENOUGH_MB if is_group else idle + ENOUGH_MB)
    relay = under(memory, world).wait_streaming()
    large, small = Bulk(world, payload_bytes=1000), Bulk(world, payload_bytes=10)
    for _ in range(EVENTS // AT_ONCE):
        large.transaction(AT_ONCE)
    small.go_on_from(world.table())
    published(world, relay, small.transaction(ROWS))
    print(f"idle {idle} MB, at most {memory.peak_mb(relay.process.pid)} MB")
    books = world.books()
    assert books.ok, str(books)
    assert books.committed == books.published == EVENTS + ROWS


def test_in_too_little_memory_the_relay_dies_and_the_next_one_goes_on_from_the_checkpoint(
    world: World, limited: Callable[[int], Memory], idle_mb: tuple[int, bool]
) -> None:
    idle, is_group = idle_mb
    bulk = Bulk(world, payload_bytes=1000)
    position = 0
    for _ in range(DEATHS):
        relay = under(limited(idle + TOO_LITTLE_MB), world)
        if is_group:
            relay.wait_streaming()  # else the room for one more thread may be missing before
        for _ in range(MOST_TRANSACTIONS):
            position = bulk.transaction(AT_ONCE)
            if relay.process.poll() is not None:
                break
        ended = relay.wait_ended()
        assert ended == -signal.SIGKILL if is_group else ended != 0, relay.log()[-2000:]
    published(world, world.relay().wait_streaming(), position)
    books = world.books()
    print(f"idle {idle} MB; {books}")
    assert books.ok, str(books)
    assert books.committed == books.published > 0
