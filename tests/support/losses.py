"""Ways to take from a relay what it stands on, while it is down. Each returns the halt that follows."""

from __future__ import annotations

from functools import cache

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from dovetail_relay.setup.install import Plan, install
from support.waiting import wait_until
from support.world import PARTITIONS, World
from support.writers import Writers


@cache
def _client(bootstrap_servers: str) -> AdminClient:
    """Kept: a client that is collected takes its unanswered requests with it."""
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})


def client(world: World) -> AdminClient:
    return _client(world.endpoints.bootstrap_servers)


def superuser(world: World, *statements: str) -> None:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


def slot_dropped(world: World, _writers: Writers | None = None) -> str:
    """The slot is gone."""

    def dropped() -> bool:
        try:
            superuser(world, f"SELECT pg_drop_replication_slot('{world.settings().relay.slot}')")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_until(dropped, 10, "the slot can be dropped")
    return "SLOT_LOST"


def slot_made_again(world: World, writers: Writers) -> str:
    """Somebody has helped: there is a slot of this name, and it knows nothing of what was before."""
    slot_dropped(world, writers)
    transactions = writers.tally.transactions
    wait_until(lambda: writers.tally.transactions > transactions + 5, 20, "something is written without a slot")
    superuser(world, f"SELECT pg_create_logical_replication_slot('{world.settings().relay.slot}', 'pgoutput')")
    return "GAP"


def slot_advanced(world: World, _writers: Writers) -> str:
    """Somebody has advanced the slot by hand."""

    def advanced() -> bool:
        slot = world.settings().relay.slot
        try:
            superuser(world, f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_until(advanced, 10, "the slot can be advanced")
    return "GAP"


def invalidated(world: World, _writers: Writers) -> str:
    """The server has removed WAL that the slot needed, because it was too much."""
    slot = world.settings().relay.slot
    superuser(world, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")

    def lost() -> bool:
        superuser(world, "SELECT pg_switch_wal()", "CHECKPOINT")
        with psycopg.connect(world.endpoints.superuser_dsn) as connection:
            row = connection.execute(
                "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (slot,)
            ).fetchone()
        return row == ("lost",)

    try:
        wait_until(lost, 30, "the slot is lost")
    finally:
        superuser(world, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
    return "SLOT_LOST"


def checkpoint_lost(world: World, _writers: Writers) -> str:
    """The checkpoint topic was deleted, and `init` has made it again."""
    topic, admin = world.settings().checkpoint_topic, client(world)
    admin.delete_topics([topic])[topic].result()
    wait_until(lambda: topic not in admin.list_topics(timeout=5).topics, 10, f"{topic} is gone")
    install(world.settings(), Plan(), report=lambda _step: None, on_wait=lambda _blockers: None)
    return "CHECKPOINT_LOST"


def checkpoint_overwritten(world: World, _writers: Writers) -> str:
    """The newest record of the checkpoint topic is none of ours."""
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    producer.produce(world.settings().checkpoint_topic, b"no checkpoint", world.name.encode())
    assert producer.flush(10) == 0
    # A transaction that a killed relay has left open would hide it from readers of what is committed.
    reader = Consumer({"bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "newest"})
    try:
        place = TopicPartition(world.settings().checkpoint_topic, 0)
        high = _high(world, place)
        wait_until(lambda: reader.get_watermark_offsets(place, timeout=5)[1] == high, 40, "readers can see it")
    finally:
        reader.close()
    return "CHECKPOINT_LOST"


def _high(world: World, place: TopicPartition) -> int:
    servers = {"bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "newest"}
    reader = Consumer(servers | {"isolation.level": "read_uncommitted"})
    try:
        return int(reader.get_watermark_offsets(place, timeout=5)[1])
    finally:
        reader.close()


def set_topic(world: World, name: str, value: str) -> None:
    """One setting of the events' topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, world.topic, incremental_configs=[entry])
    next(iter(client(world).incremental_alter_configs([resource]).values())).result()


def delete_records(world: World) -> None:
    """As retention does, but at once: every partition of the events' topic begins at its end."""
    ends = [TopicPartition(world.topic, number, -1) for number in range(PARTITIONS)]
    for future in client(world).delete_records(ends).values():
        future.result()


def diverged(world: World, _writers: Writers) -> str:
    """As after a restore elsewhere: the server is another one than the relay knows."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute("UPDATE dovetail.relay SET system_id = '1' || substr(system_id, 2)")
    return "DIVERGED"
