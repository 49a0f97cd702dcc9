"""Disks that run full, under PostgreSQL and Kafka: what was committed goes out once, when there is space again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack
from support.bulk import Bulk
from support.relay import RelayProcess
from support.root import SmallDisks
from support.waiting import wait_until
from support.world import World, new_world

FULL_SECONDS, AGAIN_SECONDS = 60, 60


@contextmanager
def small_server(disks: SmallDisks, part: str) -> Iterator[Stack]:
    """A stack with one of the two servers, to be stopped and put on a small disk."""
    made = Stack(disks.folder(), durable=False, temporary=True, parts=frozenset({part}))
    made.up(attached=True)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def postgres(disks: SmallDisks) -> Iterator[Stack]:
    with small_server(disks, "postgres") as made:
        yield made


@pytest.fixture
def kafka(disks: SmallDisks) -> Iterator[Stack]:
    with small_server(disks, "kafka") as made:
        yield made


@contextmanager
def world_of(stack: Stack, endpoints: Endpoints) -> Iterator[World]:
    """A world on servers that go as a whole: nothing in it has to be cleaned away."""
    world = World(stack, endpoints)
    try:
        world.install()
        yield world
    finally:
        world.close()


@pytest.fixture
def on_small_postgres(stack: Stack, postgres: Stack) -> Iterator[World]:
    endpoints = replace(postgres.endpoints(), bootstrap_servers=stack.endpoints().bootstrap_servers)
    with world_of(postgres, endpoints) as made:
        yield made


def data_folder(postgres: Stack, name: str) -> Path:
    return (postgres.layout.directory / "postgres").resolve() / name


def put_on_disk(postgres: Stack, disks: SmallDisks, name: str, *, spare_mb: int) -> None:
    postgres.stop_postgres()
    disks.put(data_folder(postgres, name), spare_mb=spare_mb)
    postgres.start_postgres()


def said(postgres: Stack) -> str:
    return (postgres.layout.logs / "postgres.log").read_text(errors="replace")


def fill(bulk: Bulk, *, rows: int = 2000) -> None:
    """Transactions until the server refuses one or goes away."""
    for _ in range(200):
        try:
            bulk.transaction(rows)
        except psycopg.OperationalError:
            return
    pytest.fail("the disk does not run full")


def settle_the_unknown(world: World) -> Bulk:
    """The writer's numbers again, from what is there: the last commit may have happened or not."""
    bulk = Bulk(world, payload_bytes=1000)
    bulk.go_on_from(world.table())
    return bulk


def published_once(world: World, relay: RelayProcess, position: int) -> int:
    wait_until(lambda: world.confirmed_flush() > position, AGAIN_SECONDS, f"all is confirmed\n{relay.log()[-2000:]}")
    assert relay.process.poll() is None, relay.log()[-2000:]
    books = world.books()
    print(books)
    assert books.ok, str(books)
    assert books.committed == books.published > 0
    return books.committed


def test_postgresql_without_room_for_wal_panics_and_the_relay_goes_on_after_there_is_some(
    disks: SmallDisks, postgres: Stack, on_small_postgres: World
) -> None:
    world = on_small_postgres
    put_on_disk(postgres, disks, "pg_wal", spare_mb=40)
    relay = world.relay().wait_streaming()
    fill(Bulk(world, payload_bytes=1000))
    wait_until(lambda: "PANIC" in said(postgres), FULL_SECONDS, "PostgreSQL panics")
    assert "No space left on device" in said(postgres)
    relay.wait_for_log("relay_restarting")
    postgres.kill_postgres()  # between two panics it comes back for a moment
    disks.make_space()
    postgres.start_postgres()
    published_once(world, relay, settle_the_unknown(world).transaction(1000))
    assert not relay.has_logged("relay_halted")


def test_postgresql_without_room_for_rows_refuses_them_and_the_relay_publishes_what_is_there(
    disks: SmallDisks, postgres: Stack, on_small_postgres: World
) -> None:
    world = on_small_postgres
    put_on_disk(postgres, disks, "base", spare_mb=20)
    relay = world.relay().wait_streaming()
    fill(Bulk(world, payload_bytes=1000))
    assert "could not extend file" in said(postgres)
    disks.make_space()
    published_once(world, relay, settle_the_unknown(world).transaction(1000))
    assert not relay.has_logged("relay_restarting")


def test_a_transaction_that_cannot_be_spilled_waits_for_space(
    disks: SmallDisks, postgres: Stack, on_small_postgres: World
) -> None:
    world = on_small_postgres
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'")
    put_on_disk(postgres, disks, "pg_replslot", spare_mb=4)
    relay = world.relay().wait_streaming()
    position = Bulk(world, payload_bytes=1000).transaction(20_000)
    wait_until(lambda: "No space left on device" in said(postgres), FULL_SECONDS, "the decoder has no space")
    relay.wait_for_log("relay_restarting")
    assert world.read_topic() == []
    disks.make_space()
    assert published_once(world, relay, position) == 20_000
    assert not relay.has_logged("relay_halted")


@pytest.fixture
def on_small_kafka(stack: Stack, kafka: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_KAFKA__BOOTSTRAP_SERVERS=kafka.endpoints().bootstrap_servers) as made:
        made.endpoints = replace(made.endpoints, bootstrap_servers=kafka.endpoints().bootstrap_servers)
        yield made


def broker_ended(kafka: Stack) -> Callable[[], bool]:
    return lambda: kafka.status()[0].pid is None


def test_kafka_without_room_for_its_log_stops_and_the_relay_goes_on_after_there_is_some(
    disks: SmallDisks, kafka: Stack, on_small_kafka: World
) -> None:
    world = on_small_kafka
    kafka.stop_broker(1)
    disks.put(kafka.layout.directory / "kafka-1" / "data", spare_mb=20)
    kafka.start_broker(1)
    relay = world.relay().wait_streaming()
    bulk = Bulk(world, payload_bytes=1000)
    for _ in range(20):
        position = bulk.transaction(2000)
    wait_until(broker_ended(kafka), FULL_SECONDS, "the broker has ended")
    assert relay.process.poll() is None, relay.log()[-2000:]
    assert world.confirmed_flush() < position
    disks.make_space()
    kafka.start_broker(1)
    assert published_once(world, relay, position) == 40_000
