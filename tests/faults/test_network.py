"""Networks that fail: between the relay and Kafka, and between the relay and PostgreSQL. It recovers by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from dovetail_local.stack import Stack
from support.link import Link
from support.linked import Linked, linked_world
from support.relay import RelayProcess
from support.waiting import after, wait_until
from support.world import World
from support.writers import Writers

# Longer than a pulse of the lock session, shorter than any patience.
MOMENT_SECONDS = 2.5


@pytest.fixture
def between(stack: Stack) -> Iterator[Linked]:
    with linked_world(stack) as made:
        yield made


def resets(link: Link) -> None:
    for _ in range(5):
        wait_until(after(0.2), 5, "it has had time to come back")
        wait_until(link.reset, 10, "there is a connection to reset")


WEATHER: dict[str, Callable[[Link], object]] = {
    "a partition": lambda link: link.partition(),
    "nothing arrives at the server": lambda link: link.partition("to_server"),
    "nothing comes back": lambda link: link.partition("to_client"),
    "resets": resets,
    "a delay": lambda link: link.slow(delay=0.1),
    "a slow link": lambda link: link.slow(bytes_per_second=20_000),
}


def transactions(writers: Writers, count: int) -> None:
    wanted = writers.tally.transactions + count
    wait_until(lambda: writers.tally.transactions >= wanted, 30, f"{count} more transactions are done")


def published(relay: RelayProcess, count: int) -> None:
    """Until it has published so many more."""
    name = "dovetail_events_published_total"
    wanted = relay.metric(name) + count
    wait_until(lambda: relay.metric(name) >= wanted, 40, f"it goes on; its log:\n{relay.log()[-2000:]}")


def balanced(world: World, writers: Writers) -> None:
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    assert books.ok, str(books)
    assert books.committed == books.published > 0
    assert all(relay.process.poll() is None for relay in world.relays), "a relay has ended"


@pytest.mark.parametrize("server", ["kafka", "postgres"])
@pytest.mark.parametrize("weather", WEATHER)
def test_bad_weather_costs_nothing_and_needs_nobody(between: Linked, server: str, weather: str) -> None:
    link = between.kafka if server == "kafka" else between.postgres
    relay = between.world.relay().wait_streaming()
    with between.world.writers(count=2) as writers:
        published(relay, 40)
        WEATHER[weather](link)
        wait_until(after(MOMENT_SECONDS), 10, "the weather has lasted")
        transactions(writers, 20)
        link.heal()
        published(relay, 40)
    balanced(between.world, writers)
    wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "it is ready")


@pytest.mark.parametrize("way", ["both", "to_client"])
def test_a_partition_before_kafka_closes_the_stream_and_does_not_hold_up_a_shutdown_of_postgresql(
    between: Linked, stack: Stack, way: str
) -> None:
    world = between.world
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        published(relay, 40)
        between.kafka.partition(way)  # type: ignore[arg-type]
        started = time.monotonic()
        relay.wait_for_log("kafka_lost", 30)
        assert time.monotonic() - started > 9
        wait_until(lambda: not world.slot_is_active(), 5, "the stream is closed")
        status, body = relay.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "kafka unreachable")
        assert relay.get("/livez")[0] == 200
        started = time.monotonic()
        stack.stop_postgres("fast")
        took = time.monotonic() - started
        stack.start_postgres()
        assert took < 5
        transactions(writers, 20)
        between.kafka.heal()
        published(relay, 40)
    balanced(world, writers)
    wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "it is ready")


def test_a_leader_cut_off_from_postgresql_is_replaced_and_costs_nothing_when_it_comes_back(between: Linked) -> None:
    world = between.world
    lease = {"DOVETAIL_RELAY__LEASE_SECONDS": "2"}
    leader = world.relay(**lease).wait_streaming()
    standby = world.relay(**lease, DOVETAIL_POSTGRES__DSN=world.endpoints.relay_dsn).wait_for_log("standing_by")
    with world.writers(count=2) as writers:
        published(leader, 40)
        between.postgres.partition()
        standby.wait_streaming()
        published(standby, 40)
        # What it had said, and what it was told, arrives now.
        between.postgres.heal()
        published(standby, 40)
    balanced(world, writers)
    wait_until(lambda: leader.has_logged("relay_restarting"), 20, "the old leader has noticed")
