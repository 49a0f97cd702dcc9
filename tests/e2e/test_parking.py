"""A message that cannot go out holds its key and nothing else; what waits behind it stays in order."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from dovetail_local.stack import Stack
from support.relay import RelayProcess
from support.stuck import UNKNOWN, out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

BOTH_MODES = pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def metric(relay: RelayProcess, name: str) -> float:
    _, body = relay.get("/metrics")
    return next(float(line.split()[-1]) for line in body.splitlines() if line.startswith(name))


def set_topic(world: World, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, world.topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    next(iter(admin.incremental_alter_configs([resource]).values())).result()


@BOTH_MODES
def test_a_stuck_message_holds_its_key_and_other_keys_flow(world: World, mode: str) -> None:
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode).wait_streaming()
    write(world, ("bad", 1), ("good", 1))
    write_unencodable(world, "bad")
    write(world, ("bad", 2), ("good", 2), ("bad", 3), ("good", 3))
    wait_until(lambda: len(out(world)) >= 4, 20, f"what is not held is out; the log:\n{relay.log()[-2000:]}")
    assert out(world) == [("bad", 1), ("good", 1), ("good", 2), ("good", 3)]
    assert parked(world) == [("bad", "schema"), ("bad", "behind"), ("bad", "behind")]
    wait_until(lambda: metric(relay, "dovetail_parked_messages") == 3, 10, "the metrics tell")
    assert metric(relay, "dovetail_held_keys") == 1
    assert relay.get("/readyz")[0] == 200
    stuck = [line for line in relay.events() if line["event"] == "message_stuck"]
    assert len(stuck) == 1
    assert stuck[0]["reason"] == "schema"


def test_a_held_key_is_still_held_by_the_next_leader(world: World) -> None:
    first = world.relay().wait_streaming()
    write_unencodable(world, "bad")
    wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it is parked")
    first.signal(signal.SIGKILL)
    first.wait_ended()
    world.relay().wait_streaming()
    write(world, ("bad", 1), ("good", 1))
    wait_until(lambda: out(world) == [("good", 1)], 20, "the other key flows")
    assert parked(world) == [("bad", "schema"), ("bad", "behind")]


@pytest.mark.parametrize("step", ["parked", "produced", "checkpoint_flushed", "committed"])
def test_a_kill_while_a_row_is_parked_neither_loses_it_nor_holds_a_key_for_nothing(world: World, step: str) -> None:
    """A row that was parked by a batch that never committed streams again, and may go out this time."""
    write(world, ("bad", 1), ("good", 1))
    write_unencodable(world, "bad")
    write(world, ("bad", 2), ("good", 2))
    # The first batch of a new relay is the one that marks its beginning.
    nth = "1" if step == "parked" else "2"
    killed = world.relay("-m", "dovetail_relay.crash", step, nth)
    assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
    world.relay().wait_streaming()
    wait_until(lambda: len(out(world)) >= 3, 20, "what is not held is out")
    assert out(world) == [("bad", 1), ("good", 1), ("good", 2)]
    wait_until(lambda: parked(world) == [("bad", "schema"), ("bad", "behind")], 10, "the rest waits, once")


def test_a_row_whose_batch_never_committed_and_whose_cause_is_gone_holds_nothing(world: World) -> None:
    world.relay().wait_streaming().terminate()
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM dovetail.event_schema_version")
        connection.execute("DELETE FROM dovetail.event_schema_version")
        connection.execute("CREATE TABLE kept_schema AS SELECT * FROM dovetail.event_schema")
        event = numbered(world.aggregate)
        connection.execute("DELETE FROM dovetail.event_schema")
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " VALUES (gen_random_uuid(), %s, 'k', 'Numbered', '\\x026b02', %s)",
            (world.aggregate, event.fingerprint),
        )
    killed = world.relay("-m", "dovetail_relay.crash", "parked", "1")
    assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
    assert parked(world) == [("k", "schema")]
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO dovetail.event_schema SELECT * FROM kept_schema")
        connection.execute("INSERT INTO dovetail.event_schema_version SELECT * FROM kept")
    world.relay().wait_streaming()
    write(world, ("k", 2))
    wait_until(lambda: out(world) == [("k", 1), ("k", 2)], 20, "both are out")
    assert parked(world) == []


@BOTH_MODES
def test_a_record_that_the_client_refuses_is_parked_and_the_rest_of_its_batch_goes_on(world: World, mode: str) -> None:
    write(world, ("large", 1), ("good", 1))
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, 'large', 'Numbered', convert_to(repeat('x', 2000000), 'UTF8'), fingerprint"
            " FROM dovetail.event_schema",
            (world.aggregate,),
        )
    write(world, ("large", 2), ("good", 2))
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode)
    wait_until(
        lambda: {("good", 1), ("good", 2), ("large", 1)} <= set(out(world)),
        30,
        f"the rest is out:\n{relay.log()[-2000:]}",
    )
    assert parked(world) == [("large", "refused"), ("large", "behind")]
    if mode == "exactly_once":
        assert out(world) == [("good", 1), ("good", 2), ("large", 1)]


@BOTH_MODES
def test_records_that_the_broker_refuses_are_found_and_parked_and_the_rest_of_their_batch_goes_on(
    world: World, mode: str
) -> None:
    """The broker answers for a whole request: which record it means is found by sending each in one of its own."""
    set_topic(world, "max.message.bytes", "4000")
    large = {"large": "x" * 5000}
    for number in range(1, 41):
        write(world, (f"key-{number % 8}", number), headers=large if number in {12, 21, 28} else None)
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode)
    # Of keys 4 and 5: 12 of key-4 holds 20, 28, 36; 21 of key-5 holds 29, 37.
    wait_until(lambda: len(set(out(world))) >= 33, 60, f"the rest is out; the log:\n{relay.log()[-3000:]}")
    # At least once, the rest may be out before its batch is given up, taken again, and its rows parked.
    expected = [
        [("key-4", "refused"), ("key-4", "behind"), ("key-5", "refused"), ("key-4", third), ("key-5", "behind"),
         ("key-4", "behind"), ("key-5", "behind")]
        for third in ("refused", "behind")
    ]  # fmt: skip
    wait_until(lambda: parked(world) in expected, 30, f"they are parked; the log:\n{relay.log()[-3000:]}")
    if mode == "exactly_once":
        assert len(out(world)) == len(set(out(world))) == 33


def test_records_that_are_too_large_only_together_all_go_out(world: World) -> None:
    """A request of many records may break the topic's limit where each of them keeps it."""
    set_topic(world, "max.message.bytes", "4000")
    write(world, *[("one-key", number) for number in range(1, 201)])
    relay = world.relay()
    wait_until(lambda: len(out(world)) >= 200, 60, f"all are out; the log:\n{relay.log()[-3000:]}")
    assert parked(world) == []
    assert [seen.number for seen in world.read_topic()] == list(range(1, 201))


def test_events_for_a_missing_topic_wait_and_other_topics_flow(world: World) -> None:
    relay = world.relay().wait_streaming()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
            " VALUES (gen_random_uuid(), 'nowhere', 'k', 'T', '')"
        )
    write(world, ("good", 1))
    wait_until(lambda: out(world) == [("good", 1)], 20, f"the other topic flows:\n{relay.log()[-2000:]}")
    wait_until(lambda: len(parked(world)) == 1, 10, "it waits")


def test_with_skip_a_stuck_message_becomes_a_dead_letter_and_its_key_flows_on(world: World) -> None:
    environ = {f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK": "skip"}
    letters = f"{world.topic}.dead-letter"
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    admin.create_topics([NewTopic(letters, 1, 1)])[letters].result()
    relay = world.relay(**environ).wait_streaming()
    event_id = write_unencodable(world, "k")
    write(world, ("k", 1))
    wait_until(lambda: out(world) == [("k", 1)], 20, f"the key flows on; the log:\n{relay.log()[-2000:]}")
    assert parked(world) == []
    ((key, value, headers),) = read_raw(world, letters)
    assert (key, value) == (b"k", b"\x00")
    assert headers["id"] == event_id.encode()
    assert headers["dovetail_reason"] == b"schema"
    assert headers["dovetail_topic"] == world.topic.encode()
    assert UNKNOWN.hex() in headers["dovetail_message"].decode()
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        kept = connection.execute("SELECT id FROM dovetail.parked WHERE state = 'dead_lettered'").fetchall()
    assert kept == [(UUID(event_id),)]


def test_with_skip_and_no_topic_for_dead_letters_the_message_is_held(world: World) -> None:
    relay = world.relay(**{f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK": "skip"}).wait_streaming()
    write_unencodable(world, "k")
    write(world, ("k", 1), ("other", 1))
    wait_until(lambda: out(world) == [("other", 1)], 20, f"the other key flows; the log:\n{relay.log()[-2000:]}")
    assert parked(world) == [("k", "schema"), ("k", "behind")]


@BOTH_MODES
def test_a_dead_letter_that_kafka_refuses_as_well_is_held_and_not_lost(world: World, mode: str) -> None:
    letters = f"{world.topic}.dead-letter"
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    admin.create_topics([NewTopic(letters, 1, 1)])[letters].result()
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, 'large', 'Numbered', convert_to(repeat('x', 2000000), 'UTF8'), fingerprint"
            " FROM dovetail.event_schema",
            (world.aggregate,),
        )
    write(world, ("large", 1), ("good", 1))
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode, **{f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK": "skip"})
    wait_until(lambda: ("good", 1) in out(world), 30, f"the rest is out:\n{relay.log()[-2000:]}")
    assert parked(world) == [("large", "refused"), ("large", "behind")]
    assert read_raw(world, letters) == []


def test_a_leader_at_full_speed_shows_signs_of_life_and_does_not_flood_its_log(world: World) -> None:
    """It never waits for the stream while there is a backlog; an orchestrator must not take it for hung."""
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, 'k', 'Numbered', '\\x00', %s FROM generate_series(1, 20000)",
            (world.aggregate, UNKNOWN),
        )
    relay = world.relay(DOVETAIL_DELIVERY__BATCH_ROWS="1000").wait_streaming()
    began, silences = time.monotonic(), [0.0]

    def all_is_parked() -> bool:
        silences.append(json.loads(relay.get("/livez")[1])["last_progress_seconds"])
        return len(parked(world)) == 20_000

    wait_until(all_is_parked, 120, "all is parked")
    assert max(silences) < max(1.0, (time.monotonic() - began) / 2)
    assert relay.log().count('"message_stuck"') < 2_000


def test_a_locked_table_is_named_with_its_holder_and_parking_goes_on_behind_it(world: World) -> None:
    relay = world.relay().wait_streaming()
    with psycopg.connect(world.endpoints.owner_dsn, application_name="vacuum at noon") as connection:
        connection.execute("LOCK TABLE dovetail.parked IN ACCESS EXCLUSIVE MODE")
        write_unencodable(world, "bad")
        write(world, ("bad", 1), ("good", 1))
        said = f"dovetail.parked is locked by pid {connection.info.backend_pid} of user"
        wait_until(lambda: said in relay.log(), 30, "who is in the way is said")
        assert "'vacuum at noon'" in relay.log()
        connection.rollback()
    wait_until(lambda: out(world) == [("good", 1)], 30, f"the rest goes on; the log:\n{relay.log()[-2000:]}")
    assert parked(world) == [("bad", "schema"), ("bad", "behind")]


def test_whoever_holds_the_commands_is_named_too(world: World) -> None:
    relay = world.relay().wait_streaming()
    with psycopg.connect(world.endpoints.owner_dsn, application_name="a lunch") as connection:
        connection.execute("LOCK TABLE dovetail.command IN ACCESS EXCLUSIVE MODE")
        said = f"dovetail.command is locked by pid {connection.info.backend_pid} of user"
        wait_until(lambda: said in relay.log(), 30, "who is in the way is said")
        connection.rollback()
    write(world, ("good", 1))
    wait_until(lambda: out(world) == [("good", 1)], 30, f"it goes on; the log:\n{relay.log()[-2000:]}")


def test_rows_that_were_there_before_the_slot_are_parked_too(stack: Stack) -> None:
    with new_world(stack) as world:
        world.forget_the_slot()
        write(world, ("bad", 1), ("good", 1))
        write_unencodable(world, "bad")
        write(world, ("bad", 2), ("good", 2))
        world.init()
        relay = world.relay()
        wait_until(lambda: len(out(world)) >= 3, 30, f"what is not held is out; the log:\n{relay.log()[-2000:]}")
        assert out(world) == [("bad", 1), ("good", 1), ("good", 2)]
        assert parked(world) == [("bad", "schema"), ("bad", "behind")]
        write(world, ("bad", 3))
        wait_until(lambda: len(parked(world)) == 3, 20, "what comes later waits too")


def test_a_row_that_ends_the_relays_process_is_found_by_counting_and_parked(world: World) -> None:
    write(world, *[("good", number) for number in range(1, 31)])
    write(world, ("poison", 1), ("good", 31))
    write(world, ("poison", 2), ("good", 32))
    ends = 0
    while _ends_of_poison(world):
        ends += 1
        assert ends < 20
    assert out(world) == [("good", number) for number in range(1, 33)]
    # The second one would end it just as well.
    assert parked(world) == [("poison", "crash"), ("poison", "crash")]


def _ends_of_poison(world: World) -> bool:
    """Whether a relay that dies of the sight of it does; else it has published what there is."""
    relay = world.relay("-m", "support.planted", "dies_of_poison")
    wait_until(
        lambda: relay.process.poll() is not None or (len(out(world)) >= 32 and len(parked(world)) >= 2), 60, "an end"
    )
    return relay.process.poll() is not None


def read_raw(world: World, topic: str) -> list[tuple[bytes, bytes, dict[str, bytes]]]:
    """(key, value, headers) of each record of partition 0, as a `read_committed` reader finds them."""
    consumer = Consumer(
        {
            "bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "letters", "enable.partition.eof": True,
            "auto.offset.reset": "earliest", "enable.auto.commit": False,
        }
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Any] = []
        while True:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is not None:
                return found
            found.append((message.key(), message.value(), dict(message.headers())))
    finally:
        consumer.close()
