"""Two relays are started at once on a database whose outbox has rows from before the slot."""

from __future__ import annotations

import psycopg

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.setup.install import Plan, install
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

RACES, ROWS = 6, 6


def test_a_first_start_that_two_relays_race_for_publishes_the_older_rows_once(stack: Stack) -> None:
    with new_world(stack) as world:
        for number in range(1, RACES + 1):
            write(world, range((number - 1) * ROWS + 1, number * ROWS + 1))
            race(world, number)
            books = world.books()
            assert books.ok, f"race {number}: {books}"
            assert books.published == number * ROWS
            drop_slot(world)


def write(world: World, numbers: range) -> None:
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        for number in numbers:
            outbox.publish(connection, event({"key": "k", "number": number}))
            connection.commit()


def race(world: World, number: int) -> None:
    """A relay that never was, twice, on rows that were there before its slot."""
    world.topic = f"{world.name}.race{number}"
    world.environ |= {
        "DOVETAIL_RELAY__NAME": f"{world.name}_{number}",
        f"DOVETAIL_ROUTES__{world.name.upper()}__TOPIC": world.topic,
    }
    install(world.settings(), Plan(), report=lambda _step: None, on_wait=lambda _blockers: None)
    relays = [world.relay(DOVETAIL_DELIVERY__BATCH_ROWS="5") for _ in range(2)]

    def both_are_where_they_belong() -> bool:
        logged = [relay.has_logged("stream_started") * 2 + relay.has_logged("standing_by") for relay in relays]
        return sorted(logged) == [1, 2]

    wait_until(both_are_where_they_belong, 30, "one leads, the other stands by")
    world.wait_until_published()
    for relay in relays:
        relay.kill()


def drop_slot(world: World) -> None:
    slot = world.settings().relay.slot
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        free = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
        wait_until(lambda: connection.execute(free, (slot,)).fetchone() == (False,), 10, "the slot is free")
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
