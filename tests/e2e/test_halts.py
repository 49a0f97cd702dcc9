"""Each named halt: its cause, how it shows, that nothing is lost by it, and that its cure is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    NewPartitions,
    NewTopic,
)

import dovetail
from dovetail_local.stack import Stack
from support.operator import dovetail as run_dovetail
from support.relay import RelayProcess
from support.stuck import write_each
from support.waiting import wait_until
from support.world import PARTITIONS, World, new_world
from support.writers import NUMBERED_SCHEMA

SHOWN_SECONDS = 20.0


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def execute(world: World, statement: str, *values: object, superuser: bool = False) -> None:
    dsn = world.endpoints.superuser_dsn if superuser else world.endpoints.owner_dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement, values or None)  # type: ignore[arg-type]


def published(world: World, count: int) -> Callable[[], bool]:
    return lambda: len(world.read_topic()) >= count


def has_run(world: World) -> None:
    """The relay has published three events, and was stopped in order."""
    relay = world.relay().wait_streaming()
    write_each(world, 1, 2, 3)
    wait_until(published(world, 3), 20, "three events are out")
    assert relay.terminate() == 0, relay.log()[-2000:]


def shows(relay: RelayProcess, halt: str, next_command: str) -> None:
    """The halt's name everywhere where an operator looks, and the process up."""

    def is_named() -> bool:
        assert relay.process.poll() is None, relay.log()[-3000:]
        status, body = relay.get("/readyz")
        return status == 503 and json.loads(body)["reason"] == halt

    wait_until(is_named, SHOWN_SECONDS, f"/readyz says {halt}; the log:\n{relay.log()[-1500:]}")
    status, body = relay.get("/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": halt, "next": next_command})
    assert relay.get("/livez")[0] == 200
    wait_until(
        lambda: f'dovetail_relay_halted{{reason="{halt}"}} 1.0' in relay.get("/metrics")[1], 10, "the metric is 1"
    )
    line = next(line for line in relay.events() if line.get("event") == "relay_halted" and line.get("halt") == halt)
    assert line["next"] == next_command
    assert next_command in str(line["message"])
    assert "Traceback" not in relay.log()


def goes_on(world: World, relay: RelayProcess, count: int) -> None:
    """By itself, with everything exactly once."""
    wait_until(published(world, count), 30, f"{count} events are out; the log:\n{relay.log()[-1500:]}")
    wait_until(lambda: relay.get("/readyz")[0] == 200, 10, "the relay is ready again")
    assert "dovetail_relay_halted{" not in [
        line for line in relay.get("/metrics")[1].splitlines() if line.endswith(" 1.0")
    ]
    books = world.books()
    assert books.ok, str(books)
    assert books.published == count


# -- the slot ---------------------------------------------------------------------------------------------------------


def slot(world: World) -> str:
    return world.settings().relay.slot


def test_a_slot_advanced_by_hand_while_the_relay_was_down_is_a_gap(world: World) -> None:
    has_run(world)
    write_each(world, 4)
    execute(world, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", slot(world), superuser=True)
    shows(world.relay(), "GAP", "dovetail recover")
    assert len(world.read_topic()) == 3


@pytest.mark.parametrize("lost_event", [True, False])
def test_a_slot_that_was_dropped_and_made_again_is_a_gap(world: World, lost_event: bool) -> None:
    has_run(world)
    execute(world, "SELECT pg_drop_replication_slot(%s)", slot(world), superuser=True)
    if lost_event:
        write_each(world, 4)
    execute(world, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot(world), superuser=True)
    write_each(world, 5)
    shows(world.relay(), "GAP", "dovetail recover")


def test_a_slot_that_was_advanced_before_the_very_first_start_is_a_gap(world: World) -> None:
    write_each(world, 1)
    execute(world, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", slot(world), superuser=True)
    shows(world.relay(), "GAP", "dovetail recover")


@pytest.mark.parametrize("instead", ["nothing", "a physical slot"])
def test_a_missing_or_foreign_slot_is_slot_lost(world: World, instead: str) -> None:
    has_run(world)
    execute(world, "SELECT pg_drop_replication_slot(%s)", slot(world), superuser=True)
    if instead == "a physical slot":
        execute(world, "SELECT pg_create_physical_replication_slot(%s)", slot(world), superuser=True)
    try:
        shows(world.relay(), "SLOT_LOST", "dovetail recover")
    finally:
        if instead == "a physical slot":
            execute(world, "SELECT pg_drop_replication_slot(%s)", slot(world), superuser=True)


# -- the checkpoint ---------------------------------------------------------------------------------------------------


@cache
def client(bootstrap_servers: str) -> AdminClient:
    """Kept: a client that is collected takes its unanswered requests with it."""
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})


def admin(world: World) -> AdminClient:
    return client(world.endpoints.bootstrap_servers)


def delete_topic(world: World, topic: str) -> None:
    admin(world).delete_topics([topic])[topic].result()
    wait_until(lambda: topic not in admin(world).list_topics(timeout=5).topics, 10, f"{topic} is gone")


def create_topic(world: World, topic: str, partitions: int = 1, **config: str) -> None:
    admin(world).create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result()
    wait_until(lambda: topic in admin(world).list_topics(timeout=5).topics, 10, f"{topic} is there")


@pytest.mark.parametrize("instead", ["an empty topic", "no topic"])
def test_a_checkpoint_topic_that_was_deleted_is_checkpoint_lost(world: World, instead: str) -> None:
    has_run(world)
    topic = world.settings().checkpoint_topic
    delete_topic(world, topic)
    if instead == "an empty topic":
        create_topic(world, topic, **{"cleanup.policy": "compact"})
    next_command = "dovetail recover" if instead == "an empty topic" else "dovetail init"
    shows(world.relay(), "CHECKPOINT_LOST", next_command)
    assert len(world.read_topic()) == 3


def newest_checkpoint(world: World) -> dict[str, Any]:
    consumer = Consumer(
        {"bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "look", "auto.offset.reset": "earliest"}
    )
    try:
        place = TopicPartition(world.settings().checkpoint_topic, 0, 0)
        _, high = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([place])
        newest: dict[str, Any] = {}
        while (message := consumer.poll(5)) is not None and message.error() is None:
            newest = json.loads(message.value())
            if message.offset() >= high - 2:
                break
        return newest
    finally:
        consumer.close()


@pytest.mark.parametrize("record", ["garbage", "a future version", "another slot", "not an object"])
def test_a_newest_record_that_is_no_checkpoint_of_this_relay_is_checkpoint_lost(world: World, record: str) -> None:
    has_run(world)
    good = newest_checkpoint(world)
    foreign = {
        "garbage": b"\xff\x00 no json",
        "a future version": json.dumps({**good, "version": 2}).encode(),
        "another slot": json.dumps({**good, "slot": "other"}).encode(),
        "not an object": b"[1, 2]",
    }[record]
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    producer.produce(world.settings().checkpoint_topic, foreign, world.name.encode())
    assert producer.flush(10) == 0
    shows(world.relay(), "CHECKPOINT_LOST", "dovetail recover")
    assert len(world.read_topic()) == 3


def test_a_strangers_record_under_another_key_in_the_checkpoint_topic_is_passed_over(world: World) -> None:
    has_run(world)
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    producer.produce(world.settings().checkpoint_topic, b"garbage", b"somebody-else")
    assert producer.flush(10) == 0
    write_each(world, 4)
    goes_on(world, world.relay(), 4)


# -- the database's side ----------------------------------------------------------------------------------------------


def test_another_system_id_is_diverged_until_it_is_the_old_one_again(world: World) -> None:
    has_run(world)
    write_each(world, 4)
    execute(world, "UPDATE dovetail.relay SET system_id = '-' || system_id")
    relay = world.relay()
    shows(relay, "DIVERGED", "dovetail recover --new-epoch")
    execute(world, "UPDATE dovetail.relay SET system_id = substr(system_id, 2)")
    goes_on(world, relay, 4)


PUBLICATION = ("PUBLICATION_CHANGED", "dovetail doctor")
COLUMNS = "(id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers, created_at)"
MADE_AGAIN = (
    "DROP PUBLICATION dovetail;"
    f" CREATE PUBLICATION dovetail FOR TABLE dovetail.outbox {COLUMNS}"
    " WITH (publish = 'insert', publish_via_partition_root = true)"
)


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (
            "ALTER PUBLICATION dovetail SET (publish = 'insert, update')",
            "ALTER PUBLICATION dovetail SET (publish = 'insert')",
        ),
        (
            f"ALTER PUBLICATION dovetail SET TABLE dovetail.outbox {COLUMNS} WHERE (aggregateid <> 'secret')",
            None,
        ),
        ("ALTER PUBLICATION dovetail DROP TABLE dovetail.outbox", None),
        ("DROP PUBLICATION dovetail", None),
        (MADE_AGAIN, None),
        ("ALTER PUBLICATION dovetail SET TABLE dovetail.outbox", None),
    ],
)
def test_a_publication_changed_while_the_relay_was_down_is_named(world: World, change: str, back: str | None) -> None:
    has_run(world)
    execute(world, change)
    write_each(world, 4)
    relay = world.relay()
    shows(relay, *PUBLICATION)
    assert len(world.read_topic()) == 3
    if back is not None:
        execute(world, back)
        goes_on(world, relay, 4)


def test_a_publication_changed_while_it_streams_is_noticed(world: World) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    wait_until(published(world, 1), 20, "the first event is out")
    execute(world, "ALTER PUBLICATION dovetail DROP TABLE dovetail.outbox")
    write_each(world, 2)
    shows(relay, *PUBLICATION)


def test_rows_that_stream_under_a_leafs_name_are_not_passed_over_in_silence(world: World) -> None:
    # Without the root's name they look like another table's: the checkpoint must not go past them.
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    wait_until(published(world, 1), 20, "the first event is out")
    execute(world, "ALTER PUBLICATION dovetail SET TABLE dovetail.outbox")
    execute(world, "ALTER PUBLICATION dovetail SET (publish_via_partition_root = false)")
    write_each(world, 2, 3)
    shows(relay, *PUBLICATION)
    execute(world, "ALTER PUBLICATION dovetail SET (publish_via_partition_root = true)")
    execute(world, f"ALTER PUBLICATION dovetail SET TABLE dovetail.outbox {COLUMNS}")
    # It looks as before, and its entry is another: a person says that this is well.
    assert run_dovetail(world, "relay", "accept", "--reason", "put back", "--yes")[0] == 0
    goes_on(world, relay, 3)


def test_a_column_renamed_while_it_streams_is_outbox_altered(world: World) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    wait_until(published(world, 1), 20, "the first event is out")
    execute(world, "ALTER TABLE dovetail.outbox RENAME COLUMN payload TO body")
    execute(
        world,
        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, body)"
        " VALUES (gen_random_uuid(), %s, 'k', 'Numbered', '\\x00')",
        world.aggregate,
    )
    shows(relay, "OUTBOX_ALTERED", "dovetail init --check")


# -- the topics -------------------------------------------------------------------------------------------------------


def test_a_topic_that_grew_while_the_relay_was_down_is_partitions_changed(world: World) -> None:
    has_run(world)
    admin(world).create_partitions([NewPartitions(world.topic, PARTITIONS + 1)])[world.topic].result()
    wait_until(
        lambda: len(admin(world).list_topics(timeout=5).topics[world.topic].partitions) == PARTITIONS + 1, 10, "grown"
    )
    shows(world.relay(), "PARTITIONS_CHANGED", "dovetail relay accept")


# -- a message that cannot go out, where the route says `halt` ------------------------------------------------------


@pytest.fixture
def halting(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        made.environ[f"DOVETAIL_ROUTES__{made.name.upper()}__ON_STUCK"] = "halt"
        yield made


def halted_rows(world: World) -> list[str]:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return [row[0] for row in connection.execute("SELECT reason FROM dovetail.parked WHERE state = 'halting'")]


def halting_id(world: World) -> str:
    """The event before which the relay stands, as soon as it does."""

    def asked() -> list[str]:
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            return [str(row[0]) for row in connection.execute("SELECT id FROM dovetail.parked WHERE state = 'halting'")]

    wait_until(lambda: len(asked()) == 1, SHOWN_SECONDS, "the relay stands before one message")
    return asked()[0]


def test_with_halt_a_missing_topic_holds_the_relay_until_it_is_there(halting: World) -> None:
    delete_topic(halting, halting.topic)
    relay = halting.relay()
    write_each(halting, 1, 2)
    shows(relay, "POISON_HELD", f"dovetail stuck show {halting_id(halting)}")
    assert halted_rows(halting) == ["topic"]
    create_topic(halting, halting.topic, PARTITIONS)
    goes_on(halting, relay, 2)
    wait_until(lambda: not halted_rows(halting), 20, "nothing is left of it")


def test_with_halt_an_unknown_schema_holds_the_relay_until_it_is_registered(halting: World) -> None:
    relay = halting.relay().wait_streaming()
    fields = [*NUMBERED_SCHEMA["fields"], {"name": "later", "type": ["null", "string"], "default": None}]  # type: ignore[misc]
    event = dovetail.EventType.from_avsc(
        {**NUMBERED_SCHEMA, "fields": fields}, aggregate=halting.aggregate, key="key", type="Numbered"
    )
    # As from a service that skipped the registration.
    execute(
        halting,
        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
        " VALUES (gen_random_uuid(), %s, 'k', 'Numbered', '\\x026b0200', %s)",
        halting.aggregate,
        event.fingerprint,
    )
    shows(relay, "POISON_HELD", f"dovetail stuck show {halting_id(halting)}")
    with psycopg.connect(halting.endpoints.app_dsn) as connection:
        dovetail.register(connection, event)
    wait_until(published(halting, 1), 30, f"the event is out; the log:\n{relay.log()[-1500:]}")
    assert len(halting.read_topic()) == 1


def test_with_halt_what_was_committed_before_the_message_is_published_all_the_same(halting: World) -> None:
    write_each(halting, *range(1, 11))
    execute(
        halting,
        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
        " VALUES (gen_random_uuid(), %s, 'bad', 'Numbered', '\\x00', '\\x00112233445566778899aabbccddeeff')",
        halting.aggregate,
    )
    relay = halting.relay()
    shows(relay, "POISON_HELD", f"dovetail stuck show {halting_id(halting)}")
    wait_until(published(halting, 10), 10, f"the ten good events are out; the log:\n{relay.log()[-1500:]}")
    assert halted_rows(halting) == ["schema"]
