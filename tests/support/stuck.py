"""Events that can go out and events that cannot, and where they are."""

from __future__ import annotations

import psycopg

from dovetail.psycopg import Outbox
from support.world import World
from support.writers import numbered

# A schema that nobody has registered.
UNKNOWN = bytes.fromhex("00112233445566778899aabbccddeeff")


def write(world: World, *events: tuple[str, int], headers: dict[str, str] | None = None) -> list[str]:
    """One transaction for all of them; their ids."""
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        return [
            str(outbox.publish(connection, event({"key": key, "number": number}), headers=headers))
            for key, number in events
        ]


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


def out(world: World) -> list[tuple[str, int]]:
    return sorted((seen.key, seen.number) for seen in world.read_topic())
