"""What has cost others their events, once more, against this relay: docs/explanation/incidents.md lists all of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from support.stuck import write
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

LONG = 4
SHORT = 3


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def interleave(world: World) -> Iterator[int]:
    """Transactions that begin early and end late, with others that begin and end in between.

    Gives, after each commit, how many events are committed.
    """
    event, outbox, committed = numbered(world.aggregate), Outbox(), 0
    with ExitStack() as open_ones:
        long_ones = [open_ones.enter_context(psycopg.connect(world.endpoints.app_dsn)) for _ in range(LONG)]
        for number in range(1, SHORT + 1):
            for nth, connection in enumerate(long_ones):
                outbox.publish(connection, event({"key": f"long-{nth}", "number": number}))
                write(world, (f"short-{nth}", number))
                committed += 1
                yield committed
        for connection in reversed(long_ones):
            connection.commit()
            committed += SHORT
            yield committed


def test_transactions_that_overlap_all_go_out_although_the_relay_is_killed_at_each_commit(world: World) -> None:
    """A position that is not the end of a commit passes over transactions that began before it (RisingWave #14060)."""
    world.relay().wait_streaming().kill()
    committed = 0
    for committed in interleave(world):
        killed = world.relay("-m", "dovetail_relay.crash", "confirmed", "1")
        assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
        assert len(world.read_topic()) == committed
    books = world.books()
    assert books.ok, str(books)
    assert books.committed == books.published == committed == 2 * LONG * SHORT


def open_transaction(world: World) -> bool:
    """Whether a reader of committed events is held up before the end of a partition."""
    return any(everything != committed for everything, committed in world.ends().values())


def test_a_leader_that_sleeps_longer_than_its_transaction_lives_goes_on_by_itself(world: World) -> None:
    """The broker ends the transaction, the client calls that an invalid state and never recovers (librdkafka #3297)."""
    relay = world.relay("-m", "support.stopped_at", "flushed", "3").wait_streaming()
    write(world, ("a", 1))
    world.wait_until_published()
    write(world, ("a", 2), ("b", 1))
    wait_until(lambda: open_transaction(world), 20, "it sleeps with a transaction open")
    wait_until(lambda: not open_transaction(world), 60, "the broker has ended the transaction")
    relay.signal(signal.SIGCONT)
    write(world, ("a", 3))
    world.wait_until_published()
    assert not relay.ended
    assert relay.metric("dovetail_recycles_total") >= 1
    books = world.books()
    assert books.ok, str(books)
