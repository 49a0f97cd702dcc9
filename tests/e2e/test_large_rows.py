"""Rows that are too large to carry: refused under their id, by their size, and in bounded memory."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.setup.install import Plan, install
from dovetail_schemas.envelope import Envelope, pack
from support.relay import RelayProcess
from support.stuck import out, parked
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

MIB = 1 << 20
# libpq holds a row whole in its buffer, and once more for the moment in which the frame is looked at.
ROW_MIB, TIMES, AROUND_MIB = 96, 2, 40


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_OUTBOX__MESSAGES="true") as made:
        yield made


def memory_mib(relay: RelayProcess, name: str) -> int:
    """`VmRSS`, what it has now, or `VmHWM`, the most it ever had."""
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) >> 10


def write(world: World, *numbers: int) -> None:
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        outbox.publish_many(connection, [event({"key": "k", "number": number}) for number in numbers])


def write_large(world: World, mib: int, count: int = 1) -> list[str]:
    """Rows with so large a payload in one transaction; their ids."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        rows = connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, 'large', 'Numbered',"
            " decode(repeat('00', 1024 * 1024 * %s), 'hex'), fingerprint"
            " FROM generate_series(1, %s), dovetail.event_schema RETURNING id",
            (world.aggregate, mib, count),
        ).fetchall()
    return [str(row[0]) for row in rows]


def emit(world: World, prefix: str, mib: int) -> None:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "SELECT pg_logical_emit_message(true, %s, decode(repeat('00', 1024 * 1024 * %s), 'hex'))", (prefix, mib)
        )


def size_told(relay: RelayProcess, event_id: str) -> int:
    """Wait until this event is stuck for its size; the size that is told."""

    def told() -> list[str]:
        assert relay.process.poll() is None, relay.log()[-1500:]
        stuck = [line for line in relay.events() if line.get("event_id") == event_id]
        return [str(line["message"]) for line in stuck if line["reason"] == "too_large"]

    wait_until(told, 30, "the event is stuck")
    found = re.match(r"the row has (\d+) bytes, more than outbox.max_row_bytes, ", told()[0])
    assert found is not None, told()
    return int(found[1])


def test_a_row_beyond_the_limit_is_stuck_under_its_id_by_its_size_and_leaves_no_memory_behind(world: World) -> None:
    relay = world.relay().wait_streaming()
    write(world, 1)
    world.wait_until_published()
    before = memory_mib(relay, "VmRSS")
    (event_id,) = write_large(world, ROW_MIB)
    assert 0 < size_told(relay, event_id) - ROW_MIB * MIB < 1000
    assert parked(world) == [("large", "too_large")]
    assert memory_mib(relay, "VmHWM") < before + TIMES * ROW_MIB + AROUND_MIB
    wait_until(lambda: memory_mib(relay, "VmRSS") < before + AROUND_MIB, 5, "the memory is given back")
    write(world, 2)
    wait_until(lambda: out(world) == [("k", 1), ("k", 2)], 20, "another key flows")


def test_a_large_message_of_somebody_elses_is_passed_over_and_leaves_no_memory_behind(world: World) -> None:
    relay = world.relay().wait_streaming()
    write(world, 1)
    world.wait_until_published()
    before = memory_mib(relay, "VmRSS")
    emit(world, "somebody", ROW_MIB)
    write(world, 2, 3)
    wait_until(lambda: memory_mib(relay, "VmHWM") > before + ROW_MIB, 30, "the message has come")
    write(world, 4)
    world.wait_until_published()
    wait_until(lambda: memory_mib(relay, "VmRSS") < before + AROUND_MIB, 10, "the memory is given back")
    write(world, 5)
    world.wait_until_published()
    books = world.books()
    assert books.ok, str(books)
    assert memory_mib(relay, "VmHWM") < before + TIMES * ROW_MIB + AROUND_MIB


def test_a_large_message_of_ours_holds_the_key_in_its_envelope(world: World) -> None:
    relay = world.relay().wait_streaming()
    event_id = uuid.uuid4()
    named = (world.aggregate.encode(), b"large", b"Numbered", bytes(16), b"avro", b"")
    event = Envelope(event_id.bytes, *named, bytes(10 * MIB))
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute("SELECT pg_logical_emit_message(true, 'dovetail', %b::bytea)", [pack(event)])
    assert size_told(relay, str(event_id)) > 10 * MIB
    assert parked(world) == [("large", "too_large")]


def test_rows_from_before_the_slot_are_read_in_bounded_memory_and_one_beyond_the_limit_is_stuck(world: World) -> None:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as superuser:
        superuser.execute("SELECT pg_drop_replication_slot(%s)", [world.settings().relay.slot])
        superuser.execute("DELETE FROM dovetail.relay")
        superuser.execute("ALTER TABLE dovetail.outbox ALTER payload SET STORAGE EXTENDED")
    fitting = 100
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " SELECT gen_random_uuid(), %s, n, 'Numbered', decode(repeat('00', 900000), 'hex'), fingerprint"
            " FROM generate_series(1, %s) AS n, dovetail.event_schema",
            (world.aggregate, fitting),
        )
    (event_id,) = write_large(world, 12)
    install(world.settings(), Plan(), report=lambda _step: None, on_wait=lambda _blockers: None)
    relay = world.relay()
    assert size_told(relay, event_id) > 12 * MIB
    assert memory_mib(relay, "VmHWM") < 100 + AROUND_MIB
    wait_until(lambda: len(world.read_topic()) == fitting, 30, "the others are out")


def test_with_every_limit_raised_an_event_of_five_megabytes_goes_from_end_to_end(world: World) -> None:
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", "6000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, world.topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result()
    world.relay(DOVETAIL_KAFKA__MESSAGE_MAX_BYTES="6000000").wait_streaming()
    # Its key says nothing of it and its number is small: what is large is the key inside.
    large = numbered(world.aggregate)({"key": "x" * 4_999_000, "number": 1}, key="k")
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        Outbox(max_payload_bytes=5_000_000).publish(connection, large)
    world.wait_until_published()
    assert world.books().ok
