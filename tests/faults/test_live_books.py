"""The live books on real servers: a loss turns them within a minute, and nothing else does."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.books import total_of
from dovetail_relay.nouns import Sum
from dovetail_relay.observe.topics import look, topics_of
from support.operator import run
from support.relay import RelayProcess
from support.stuck import parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import Writers, numbered

BALANCED = "dovetail_books_balanced"
GO = ("--yes", "--reason", "a test")
DUE = """
SELECT count(*), coalesce(bit_xor(('x' || replace(id::text, '-', ''))::bit(128)), 0::bit(128))::text
FROM dovetail.outbox WHERE NOT EXISTS (SELECT FROM dovetail.parked WHERE parked.id = outbox.id)
"""


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def due(world: World) -> Sum:
    """What the outbox holds that is to be in the books."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        row = connection.execute(DUE).fetchone()
    assert row is not None
    return Sum(row[0], int(row[1], 2))


def booked(world: World) -> Sum:
    """All that the newest checkpoint says was published since the relay's first event."""
    with topics_of(world.settings()) as kafka:
        checkpoint = look(kafka, world.settings()).checkpoint
    if checkpoint is None or checkpoint.books is None:
        return Sum(0, 0)
    return total_of(
        found
        for topic in checkpoint.books.topics.values()
        for found in (topic.total, *topic.hours.values(), *topic.fine.values())
    )


def clock_bucket(world: World) -> int:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        row = connection.execute("SELECT floor(extract(epoch FROM clock_timestamp()) / 10)::bigint").fetchone()
    assert row is not None
    return int(row[0])


def in_the_books(world: World) -> None:
    """Until the books hold the very events that they should; whatever is written from now on they know of."""
    wait_until(lambda: booked(world) == due(world), 30, "the books hold what is due")
    bucket = clock_bucket(world)
    wait_until(lambda: clock_bucket(world) > bucket, 15, "the bucket is over")


def emit(world: World, key: str) -> None:
    """An event without a row."""
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        Outbox(mode="wal").publish(connection, numbered(world.aggregate)({"key": key, "number": 9}))


def more_than(writers: Writers, transactions: int) -> bool:
    return writers.tally.transactions > transactions


def unbalanced(relay: RelayProcess) -> list[dict[str, object]]:
    return [line for line in relay.events() if line["event"] == "books_unbalanced"]


def test_a_lost_event_turns_the_books_within_a_minute_and_is_named(world: World) -> None:
    relay = world.relay("-m", "support.planted", "loses_an_event").wait_streaming()
    assert math.isnan(relay.metric(BALANCED))
    write(world, *[("k", number) for number in range(60)])
    in_the_books(world)
    written = {str(event) for event in write(world, *[("k", number) for number in range(60, 120)])}
    begun = time.monotonic()
    wait_until(lambda: relay.metric(BALANCED) == 0, 60, f"the books turn; so far:\n{relay.log()[-2000:]}")
    assert time.monotonic() - begun < 60
    (line,) = unbalanced(relay)
    assert (line["topic"], line["outbox"], line["published"]) == (world.topic, 60, 59)
    assert str(line["next"]).startswith("dovetail reconcile --since 20")
    (lost,) = written - {seen.event_id for seen in world.read_topic()}
    assert lost in str(line["message"])
    # The next leader says so from its first look on, and does not forget it while it looks itself.
    relay.kill()
    relay = world.relay("-m", "support.hasty").wait_streaming()
    seen: list[float] = []

    def told() -> bool:
        seen.append(relay.metric(BALANCED))
        return seen.count(0) > 40

    wait_until(told, 60, f"it is told; so far:\n{relay.log()[-2000:]}")
    assert set(seen[seen.index(0) :]) == {0}
    assert all(map(math.isnan, seen[: seen.index(0)])), seen


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_kills_and_stuck_messages_and_replays_leave_the_books_balanced(stack: Stack, mode: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE=mode, DOVETAIL_OUTBOX__MESSAGES="true") as world:
        lines: list[dict[str, object]] = []
        relay = world.relay("-m", "support.hasty").wait_streaming()
        (first,) = write(world, ("k", 1))
        in_the_books(world)
        with world.writers(count=2, pause=0.02) as writers:
            for step in ("produced", "checkpoint_flushed", "committed", "confirmed", ""):
                wait_until(partial(more_than, writers, writers.tally.transactions + 30), 20, "something is written")
                lines += unbalanced(relay)
                relay.kill()
                relay = world.relay("-m", "support.hasty", *((step, "4") if step else ()))
                if step:
                    assert relay.wait_ended() == -signal.SIGKILL, relay.log()[-2000:]
            relay.wait_streaming()
            write_unencodable(world, "bad")
            write(world, ("bad", 1), ("bad", 2))
            # Events without a row, one of them behind the stuck message.
            emit(world, "bad")
            emit(world, "good")
            wait_until(lambda: len(parked(world)) == 4, 20, "it holds its key")
            run(world, "stuck", "discard", "--class", "schema", *GO)
            wait_until(lambda: not parked(world), 20, "what was behind it has gone out")
            run(world, "replay", "--id", first, *GO)
            wait_until(lambda: relay.metric(BALANCED) == 1, 30, f"balanced; so far:\n{relay.log()[-2000:]}")
        wait_until(lambda: booked(world) == due(world), 30, f"{booked(world)} is {due(world)}")
        if mode == "at_least_once":
            # The batches that a kill has repeated, beside two events without a row and a replay.
            assert len(world.read_topic()) > booked(world).events + 3
        assert [*lines, *unbalanced(relay)] == []
        assert relay.metric(BALANCED) == 1


def test_the_books_begin_with_the_stream_and_not_with_the_first_event(world: World) -> None:
    """What is lost before the first event is published is not in anybody's sum, but it is due."""
    world.relay().wait_streaming()
    with topics_of(world.settings()) as kafka:
        wait_until(lambda: (at := look(kafka, world.settings()).checkpoint) and at.books, 20, "there are books")
        checkpoint = look(kafka, world.settings()).checkpoint
    assert checkpoint is not None
    assert checkpoint.books is not None
    assert not checkpoint.books.topics
    assert checkpoint.books.since <= clock_bucket(world) + 1
