"""Two relays and a third: who leads, who takes over, and what a leader that was frozen may still do (nothing)."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from confluent_kafka import Consumer, TopicPartition

from dovetail_local.stack import Stack
from dovetail_relay.crash import STEPS
from support.checker import first_occurrences, lost, out_of_order, phantom
from support.relay import RelayProcess
from support.waiting import wait_until
from support.world import PARTITIONS, World, new_world
from support.writers import Writers


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_RELAY__LEASE_SECONDS="2") as made:
        yield made


def transactions(writers: Writers, count: int) -> None:
    wanted = writers.tally.transactions + count
    wait_until(lambda: writers.tally.transactions >= wanted, 30, f"{count} more transactions are done")


def balanced(world: World, writers: Writers) -> None:
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    assert books.ok, str(books)
    assert books.committed == books.published > 0


def role(relay: RelayProcess) -> str | None:
    status, body = relay.get("/readyz")
    return str(json.loads(body)["role"]) if status == 200 else None


def led_by(*relays: RelayProcess) -> RelayProcess:
    leading: list[RelayProcess] = []

    def one_leads() -> bool:
        leading[:] = [relay for relay in relays if role(relay) == "leader"]
        return len(leading) == 1 and all(role(relay) is not None for relay in relays)

    wait_until(one_leads, 30, "one leads, the others stand by")
    return leading[0]


class Ends:
    """Where the topic's committed part ends, by the last stable offset of each partition."""

    def __init__(self, world: World) -> None:
        self._topic = world.topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": world.endpoints.bootstrap_servers,
                "group.id": "ends",
                "isolation.level": "read_committed",
                "auto.offset.reset": "latest",
            }
        )

    def start(self) -> None:
        """Follow the topic from its end."""
        places = []
        for partition in range(PARTITIONS):
            place = TopicPartition(self._topic, partition)
            place.offset = self._consumer.get_watermark_offsets(place, timeout=5)[1]
            places.append(place)
        self._consumer.assign(places)

    def wait_for_one(self, timeout: float) -> float:
        """When the next committed event was seen, monotonic."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.01)
            if message is not None and message.error() is None:
                return time.monotonic()
        raise AssertionError(f"no event within {timeout} s")

    def close(self) -> None:
        self._consumer.close()


def test_a_standby_takes_over_from_a_killed_leader_and_is_ready_all_the_time(world: World) -> None:
    took = []
    ends = Ends(world)
    with world.writers() as writers:
        leader = world.relay().wait_streaming()
        for _ in range(4):
            standby = world.relay().wait_for_log("standing_by")
            wait_until(lambda relay=standby: role(relay) == "standby", 10, "the standby is ready")
            assert standby.get("/livez")[0] == 200
            transactions(writers, 10)
            leader.signal(signal.SIGKILL)
            leader.wait_ended()
            killed_at = time.monotonic()
            ends.start()
            took.append(ends.wait_for_one(20) - killed_at)
            leader = standby.wait_streaming()
    ends.close()
    print("from kill -9 to the successor's first event: " + ", ".join(f"{seconds:.2f} s" for seconds in sorted(took)))
    balanced(world, writers)


def test_a_frozen_leader_is_evicted_and_as_a_zombie_writes_nothing(world: World) -> None:
    with world.writers() as writers:
        frozen = world.relay().wait_streaming()
        standby = world.relay().wait_for_log("standing_by")
        for _ in range(2):
            transactions(writers, 10)
            frozen.signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            wait_until(lambda relay=standby: role(relay) == "leader", 20, "the standby leads")
            print(f"from SIGSTOP to a new leader, the lease being 2 s: {time.monotonic() - frozen_at:.2f} s")
            transactions(writers, 10)
            before = frozen.log().count('"standing_by"')
            frozen.signal(signal.SIGCONT)
            wait_until(
                lambda relay=frozen, n=before: relay.log().count('"standing_by"') > n, 20, "the zombie stands by again"
            )
            assert led_by(frozen, standby) is standby
            frozen, standby = standby, frozen
    balanced(world, writers)


@pytest.mark.parametrize("step", STEPS)
def test_a_leader_frozen_at_a_step_writes_nothing_when_it_wakes(world: World, step: str) -> None:
    nth = "1" if step in {"lead", "fenced", "read", "admitted", "streaming"} else "4"
    with world.writers() as writers:
        zombie = world.relay("-m", "support.stopped_at", step, nth)
        successor = world.relay()
        successor.wait_streaming(40)
        transactions(writers, 10)
        zombie.signal(signal.SIGCONT)
        zombie.wait_for_log("standing_by")
        assert led_by(zombie, successor) is successor
    balanced(world, writers)


def test_relays_that_are_started_at_once_never_double(world: World) -> None:
    with world.writers(count=2) as writers:
        for _ in range(3):
            relays = [world.relay(), world.relay()]
            led_by(*relays)
            transactions(writers, 10)
            for relay in relays:
                relay.signal(signal.SIGKILL)
                relay.wait_ended()
        world.relay()
        world.relay()
    balanced(world, writers)


def test_takeovers_between_the_delivery_modes_lose_nothing_and_repeat_only_what_at_least_once_may(world: World) -> None:
    modes = ("at_least_once", "exactly_once", "exactly_once", "at_least_once", "at_least_once", "exactly_once")
    repeated = 0
    leader = world.relay(DOVETAIL_DELIVERY__MODE=modes[0]).wait_streaming()
    tallies = []
    for number, (mode, successor) in enumerate(pairwise(modes)):
        standby = world.relay(DOVETAIL_DELIVERY__MODE=successor).wait_for_log("standing_by")
        with world.writers(seed=number) as writers:
            transactions(writers, 40)
            leader.signal(signal.SIGKILL)
            transactions(writers, 20)
        tallies += writers.tally.rolled_back_ids
        leader = standby.wait_streaming()
        table = world.table()
        wait_until(lambda table=table: not lost(table, world.read_topic()), 30, "nothing is lost")
        topic = world.read_topic()
        assert not phantom(table, topic)
        assert not {event.event_id for event in topic} & set(tallies)
        assert not out_of_order(first_occurrences(topic))
        again = len(topic) - len(table)
        print(f"{mode} killed, {successor} took over: {again - repeated} repeated")
        assert mode == "at_least_once" or again == repeated
        repeated = again
