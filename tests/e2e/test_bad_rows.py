"""What is done to the outbox table by SQL: only inserts are events, and what was committed is not taken back."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.setup.checks import examine
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def write(world: World, *numbers: int, commit: bool = True) -> None:
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        outbox.publish_many(connection, [event({"key": "k", "number": number}) for number in numbers])
        if not commit:
            connection.rollback()


def execute(world: World, *statements: str) -> None:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def published(world: World) -> list[int]:
    return [event.number for event in world.read_topic()]


def finding(world: World, check: str) -> str:
    (found,) = (found.line() for found in examine(world.settings()) if found.check == check)
    return found


def test_an_update_is_not_published_and_the_doctor_warns_of_it(world: World) -> None:
    world.relay().wait_streaming()
    write(world, 1)
    assert "no row was ever updated" in finding(world, "dovetail.outbox_updates")
    execute(world, "UPDATE dovetail.outbox SET type = 'Changed'", "SELECT pg_stat_force_next_flush()")
    write(world, 2)
    wait_until(lambda: published(world) == [1, 2], 20, "both inserts are out, and nothing else")
    wait_until(
        lambda: "rows of dovetail.outbox updated: 1" in finding(world, "dovetail.outbox_updates"), 10, "warned of"
    )


def test_no_row_is_moved_to_another_leaf_where_it_would_stream_as_a_new_one(world: World) -> None:
    world.relay().wait_streaming()
    write(world, 1)
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="stays in its leaf"):
        execute(world, "UPDATE dovetail.outbox SET bucket = (bucket + 1) % 9")
    write(world, 2)
    wait_until(lambda: published(world) == [1, 2], 20, "each is out once")


def test_a_truncate_takes_nothing_back_of_what_was_committed_before(world: World) -> None:
    write(world, 1, 2)
    relay = world.relay().wait_streaming()
    wait_until(lambda: published(world) == [1, 2], 20, "two are out")
    assert relay.terminate() == 0
    write(world, 3)
    execute(world, "TRUNCATE dovetail.outbox")
    write(world, 4)
    world.relay().wait_streaming()
    wait_until(lambda: published(world) == [1, 2, 3, 4], 20, "the truncated row is out too")


def test_a_table_of_the_same_name_in_another_schema_is_none_of_ours(world: World) -> None:
    world.relay().wait_streaming()
    execute(
        world,
        "CREATE SCHEMA other",
        "CREATE TABLE other.outbox (LIKE dovetail.outbox INCLUDING DEFAULTS)",
        f"INSERT INTO other.outbox VALUES (gen_random_uuid(), '{world.aggregate}', 'k', 'Numbered', '\\x026b02',"
        " NULL, 'avro', '{}', now(), '1', 1, 1)",
    )
    write(world, 1)
    wait_until(lambda: published(world) == [1], 20, "ours alone is out")


def test_a_column_that_is_added_changes_nothing(world: World) -> None:
    world.relay().wait_streaming()
    write(world, 1)
    execute(
        world,
        "ALTER TABLE dovetail.outbox ADD COLUMN tenant text DEFAULT 'none'",
        "ALTER TABLE dovetail.outbox ADD COLUMN size int GENERATED ALWAYS AS (octet_length(payload)) STORED",
    )
    write(world, 2)
    wait_until(lambda: published(world) == [1, 2], 20, "both are out")


def test_a_transaction_or_a_savepoint_that_is_rolled_back_is_not_published(world: World) -> None:
    world.relay().wait_streaming()
    write(world, 7, commit=False)
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        with connection.transaction(force_rollback=True):
            outbox.publish(connection, event({"key": "k", "number": 8}))
        outbox.publish(connection, event({"key": "k", "number": 1}))
    wait_until(lambda: published(world) == [1], 20, "only what was committed is out")


def test_a_prepared_transaction_is_published_when_it_is_committed_and_the_doctor_warns_of_an_old_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.relay().wait_streaming()
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        outbox.publish(connection, event({"key": "k", "number": 1}))
        connection.execute(f"PREPARE TRANSACTION '{world.name}'")
    try:
        write(world, 2)
        wait_until(lambda: published(world) == [2], 20, "what was committed is not held up")
        monkeypatch.setattr("dovetail_relay.setup.checks_server._OLD_PREPARED_SECONDS", 0.0)
        said = finding(world, "postgres.prepared_transactions")
        assert f"1 older than 0 s, the oldest '{world.name}' of " in said
        assert "WAL is kept for it" in said
    finally:
        execute_as_app(world, f"COMMIT PREPARED '{world.name}'")
    wait_until(lambda: sorted(published(world)) == [1, 2], 20, "the prepared one is out as well")


def execute_as_app(world: World, statement: str) -> None:
    with psycopg.connect(world.endpoints.app_dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
