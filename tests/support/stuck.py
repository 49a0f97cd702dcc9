"""Events that can go out and events that cannot, and where they are."""

from __future__ import annotations

import psycopg
from confluent_kafka import Consumer, TopicPartition

from dovetail.psycopg import Outbox
from dovetail_relay.operate.commands import submit
from dovetail_relay.operate.stuck import naming
from dovetail_relay.source.commands import Command
from dovetail_schemas.avro import Codec
from support.waiting import wait_until
from support.world import World
from support.writers import numbered

# A schema that nobody has registered, and that any payload of one zero byte fits.
_CURED = Codec({"type": "record", "name": "Cured", "fields": [{"name": "x", "type": "int"}]})
UNKNOWN = _CURED.fingerprint


def write(world: World, *events: tuple[str, int], headers: dict[str, str] | None = None) -> list[str]:
    """One transaction for all of them; their ids."""
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        return [
            str(outbox.publish(connection, event({"key": key, "number": number}), headers=headers))
            for key, number in events
        ]


def write_each(world: World, *numbers: int, key: str = "k") -> None:
    """One transaction per number."""
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        for number in numbers:
            outbox.publish(connection, event({"key": key, "number": number}))
            connection.commit()


def write_unencodable(world: World, key: str) -> str:
    """As from a service that never registered its schema; the id."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        row = connection.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " VALUES (gen_random_uuid(), %s, %s, 'Numbered', '\\x00', %s) RETURNING id",
            (world.aggregate, key, UNKNOWN),
        ).fetchone()
    assert row is not None
    return str(row[0])


def parked(world: World) -> list[tuple[str, str]]:
    """(key, reason) of what waits, in the order of its queue."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return connection.execute(
            "SELECT aggregateid, reason FROM dovetail.parked WHERE state = 'parked' ORDER BY seq"
        ).fetchall()


def discarded(world: World, *ids: str) -> Command:
    """A discard of these events is asked for, as `dovetail stuck discard` does; nobody follows it."""
    return submit(world.settings(), "discard", {}, reason="a test", also=naming(ids))


def out(world: World) -> list[tuple[str, int]]:
    return sorted((seen.key, seen.number) for seen in world.read_topic())


def cure(world: World) -> None:
    """The unknown schema is one that every payload of one zero byte fits."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition) VALUES (%s, %s, %s)",
            (_CURED.fingerprint, _CURED.schema_id, _CURED.normalised),
        )


def order_of(world: World, key: str) -> list[str]:
    """Ids of a key as the topic has them."""
    return [seen for seen, at in ids(world) if at == key]


def ids(world: World) -> list[tuple[str, str]]:
    """(id, key) of everything in the topic, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "stuck", "enable.partition.eof": True,
            "enable.auto.commit": False, "isolation.level": "read_committed",
        }
    )  # fmt: skip
    try:
        partitions = consumer.list_topics(world.topic, timeout=10).topics[world.topic].partitions
        consumer.assign([TopicPartition(world.topic, partition, 0) for partition in partitions])
        found: list[tuple[int, str, str]] = []
        ended: set[int] = set()
        while len(ended) < len(partitions):
            message = consumer.poll(10)
            assert message is not None
            if message.error() is not None:
                ended.add(message.partition())
            else:
                event_id = dict(message.headers())["id"].decode()
                found.append((message.partition(), event_id, message.key().decode()))
        return [(event_id, key) for _, event_id, key in sorted(found, key=lambda each: each[0])]
    finally:
        consumer.close()


def held_queue(world: World) -> list[str]:
    """A stuck message of key `bad` and three behind it, with one of another key between; the ids of `bad`."""
    first = write_unencodable(world, "bad")
    second, _ = write(world, ("bad", 1), ("good", 1))
    third, fourth = write(world, ("bad", 2), ("bad", 3))
    wait_until(lambda: len(parked(world)) == 4, 20, "the queue waits")
    return [first, second, third, fourth]
