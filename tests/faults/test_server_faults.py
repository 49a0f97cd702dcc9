"""Servers that die, freeze or are changed under a relay that runs. What is changed while it is down: tests/e2e."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from dovetail_local.stack import Stack
from support.linked import Linked, linked_world
from support.operator import dovetail
from support.relay import RelayProcess
from support.servers import own_servers
from support.waiting import after, wait_until
from support.watch import look
from support.world import PARTITIONS, World, new_world
from support.writers import Writers

SHOWN_SECONDS = 40.0


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """Servers that nobody else uses; replication 3, so that one broker may go."""
    with own_servers(brokers=3) as servers:
        yield servers


@pytest.fixture
def linked(own_stack: Stack) -> Iterator[Linked]:
    with linked_world(own_stack) as made:
        yield made


@pytest.fixture
def world(own_stack: Stack) -> Iterator[World]:
    with new_world(own_stack) as made:
        yield made


def published(relay: RelayProcess, count: int) -> None:
    name = "dovetail_events_published_total"
    wanted = relay.metric(name) + count
    wait_until(lambda: relay.metric(name) >= wanted, 40, f"it goes on; its log:\n{relay.log()[-2000:]}")


def balanced(world: World, writers: Writers) -> None:
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    assert books.ok, str(books)
    assert books.committed == books.published > 0


def sql(world: World, statement: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def halts(relay: RelayProcess, name: str, next_command: str) -> None:
    """Named on /readyz, in the metric and in the log, with the next command; alive, and published nothing since."""
    wait_until(lambda: look(relay).reason == name, SHOWN_SECONDS, f"{name} is said; its log:\n{relay.log()[-2000:]}")
    seen = look(relay)
    assert (seen.status, seen.next) == (503, next_command)
    assert seen.halted == {name}
    assert (name, next_command) in seen.logged
    assert relay.get("/livez")[0] == 200
    assert relay.process.poll() is None


# -- brokers ----------------------------------------------------------------------------------------------------------


def test_brokers_killed_one_after_the_other_cost_nothing(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        for node in (1, 2):
            published(relay, 40)
            own_stack.kill_broker(node)
            # Whatever it led and coordinated has moved.
            published(relay, 40)
            own_stack.start_broker(node)
        published(relay, 40)
    assert relay.process.poll() is None
    balanced(world, writers)


def test_a_broker_that_is_frozen_until_it_is_taken_for_dead_costs_nothing(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        published(relay, 40)
        own_stack.pause_broker(3)
        wait_until(after(4.0), 10, "its session is over: 3 s here")
        own_stack.resume_broker(3)
        published(relay, 40)
    assert relay.process.poll() is None
    balanced(world, writers)


# -- topics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_topic_that_grows_under_a_running_relay_is_partitions_changed(world: World, mode: str) -> None:
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode).wait_streaming()
    with world.writers(count=2, keys=30):
        published(relay, 200)
        client = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers, "log_level": 0})
        client.create_partitions([NewPartitions(world.topic, PARTITIONS + 3)])[world.topic].result()
        halts(relay, "PARTITIONS_CHANGED", "dovetail relay accept")
    if mode == "exactly_once":
        # Not one event went by the new count: each key is where it was, and only the old partitions are used.
        places = defaultdict(set)
        for event in world.read_topic():
            places[event.key].add(event.partition)
        assert len(places) == 30
        assert all(len(partitions) == 1 for partitions in places.values())
        assert set.union(*places.values()) <= set(range(PARTITIONS))


# -- the slot ---------------------------------------------------------------------------------------------------------


def drop_slot(world: World) -> None:
    """As somebody would who wants it gone: its reader is ended until the slot is free long enough."""
    slot = world.settings().relay.slot
    is_free = (
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active_pid > 0"
    )

    def dropped() -> bool:
        sql(world, is_free, slot)
        try:
            sql(world, "SELECT pg_drop_replication_slot(%s)", slot)
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_until(dropped, 20, "the slot is gone")


def test_a_slot_dropped_under_a_running_relay_is_slot_lost(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2):
        published(relay, 40)
        drop_slot(world)
        halts(relay, "SLOT_LOST", "dovetail recover")


def test_a_slot_dropped_and_made_again_under_a_running_relay_is_a_gap(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2):
        published(relay, 40)
        drop_slot(world)
        sql(world, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", world.settings().relay.slot)
        halts(relay, "GAP", "dovetail recover")


def test_a_slot_that_outgrows_its_limit_while_kafka_is_away_is_slot_lost(linked: Linked) -> None:
    world = linked.world
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        published(relay, 40)
        linked.kafka.partition()
        relay.wait_for_log("kafka_lost")
    events = len(world.table())
    sql(world, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        sql(world, "SELECT pg_reload_conf()")
        for _ in range(3):
            sql(world, "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))")
            sql(world, "SELECT pg_switch_wal()")
        sql(world, "CHECKPOINT")
        slot = world.settings().relay.slot
        status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
        wait_until(lambda: sql(world, status, slot) == [("lost",)], 20, "the slot is lost")
        linked.kafka.heal()
        halts(relay, "SLOT_LOST", "dovetail recover")
    finally:
        sql(world, "ALTER SYSTEM RESET max_slot_wal_keep_size")
        sql(world, "SELECT pg_reload_conf()")
    # What is out is right; what is not is named, and still in the table.
    topic = world.read_topic()
    assert len(topic) < events
    assert not {event.event_id for event in topic} & set(writers.tally.rolled_back_ids)
    assert len({event.event_id for event in topic}) == len(topic)


# -- the tables -------------------------------------------------------------------------------------------------------


def test_a_column_added_and_taken_away_again_under_a_running_relay_costs_nothing(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        for statement in ("ADD COLUMN mine text NOT NULL DEFAULT 'x'", "DROP COLUMN mine"):
            published(relay, 40)
            sql(world, f"ALTER TABLE dovetail.outbox {statement}")
        published(relay, 40)
    balanced(world, writers)


COLUMNS = "id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers, created_at"
AND_BACK = {
    "DROP PUBLICATION dovetail": f"CREATE PUBLICATION dovetail FOR TABLE dovetail.outbox ({COLUMNS})"
    " WITH (publish = 'insert', publish_via_partition_root = true)",
    "ALTER PUBLICATION dovetail DROP TABLE dovetail.outbox": "ALTER PUBLICATION dovetail ADD TABLE dovetail.outbox"
    f" ({COLUMNS})",
}


@pytest.mark.parametrize("statement", AND_BACK)
def test_a_publication_taken_away_and_put_back_is_named_although_it_looks_as_before(
    world: World, statement: str
) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=1):
        published(relay, 40)
        sql(world, statement)
        sql(world, AND_BACK[statement])
        relay.wait_for_log("relay_halted")
        halts(relay, "PUBLICATION_CHANGED", "dovetail doctor")
        # What was written in between is lost to the stream: a person says that this is known.
        assert dovetail(world, "relay", "accept", "--reason", "put back", "--yes")[0] == 0
        wait_until(lambda: look(relay).status == 200, 20, "it goes on")
        published(relay, 40)


def test_a_publication_dropped_under_a_running_relay_is_named(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=1):
        published(relay, 40)
        sql(world, "DROP PUBLICATION dovetail")
        halts(relay, "PUBLICATION_CHANGED", "dovetail doctor")
