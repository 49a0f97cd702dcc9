"""The registry's rows from a real `event_schema`, and the look-up that a reader's miss makes."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.registry.database import look_up_with, read
from dovetail_schemas.avro import Codec
from dovetail_schemas.sql import migrations

Connection = psycopg.Connection[Any]

STRING = Codec('"string"')
INT = Codec('"int"')


@pytest.fixture
def owner(database: Endpoints) -> Iterator[Connection]:
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        for migration in migrations():
            connection.execute(migration.sql)
        yield connection


@pytest.fixture
def relay(owner: Connection, database: Endpoints) -> Iterator[Connection]:
    """With the relay's rights and no more."""
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        connection.execute("SET ROLE dovetail_relay")
        yield connection


def push(connection: Connection, codec: Codec, subject: str, version: int) -> None:
    connection.execute(
        "INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (codec.fingerprint, codec.schema_id, codec.normalised),
    )
    connection.execute(
        "INSERT INTO dovetail.event_schema_version (subject, version, fingerprint) VALUES (%s, %s, %s)",
        (subject, version, codec.fingerprint),
    )


def test_an_empty_database_gives_an_empty_registry(relay: Connection) -> None:
    assert read(relay) == ((), ())


def test_sync_takes_in_what_was_pushed_and_then_only_what_is_new(owner: Connection, relay: Connection) -> None:
    registry = BuiltinRegistry()
    push(owner, STRING, "orders-value", 1)
    (new,) = registry.sync(relay)
    assert (new.fingerprint, new.schema_id, new.definition) == (STRING.fingerprint, STRING.schema_id, STRING.normalised)
    push(owner, INT, "orders-value", 2)
    push(owner, STRING, "refunds-value", 1)
    assert [row.schema_id for row in registry.sync(relay)] == [INT.schema_id]
    assert registry.sync(relay) == ()
    assert {version: row.schema_id for version, row in registry.versions("orders-value").items()} == {
        1: STRING.schema_id,
        2: INT.schema_id,
    }
    assert registry.subjects() == ["orders-value", "refunds-value"]


def test_a_schema_whose_transaction_was_long_is_found_after_later_ones(
    owner: Connection, relay: Connection, database: Endpoints
) -> None:
    registry = BuiltinRegistry()
    with psycopg.connect(database.owner_dsn) as slow:
        push(slow, STRING, "s", 1)
        push(owner, INT, "t", 1)
        assert [row.schema_id for row in registry.sync(relay)] == [INT.schema_id]
        slow.commit()
    assert [row.schema_id for row in registry.sync(relay)] == [STRING.schema_id]


def test_every_version_that_is_read_has_its_schema(owner: Connection, relay: Connection, database: Endpoints) -> None:
    """A push between the two statements may bring a schema without a version, never the other way round."""
    push(owner, STRING, "s", 1)
    registry = BuiltinRegistry()

    original = psycopg.RawCursor.execute
    statements: list[object] = []

    def execute(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(query)
        # A neighbour who pushes at the worst moment.
        if len(statements) == 2:
            push(owner, INT, "t", 1)
        return original(cursor, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.RawCursor, "execute", execute)
        found = read(relay)
    assert len(statements) == 2
    assert len(registry.load(found.schemas, found.versions)) == 2
    assert registry.subjects() == ["s"]
    registry.sync(relay)
    assert registry.subjects() == ["s", "t"]


def test_a_readers_miss_looks_into_the_database_and_closes_its_connection(
    owner: Connection, database: Endpoints
) -> None:
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(database.owner_dsn, autocommit=True, connect_timeout=2))
        return opened[-1]

    registry = BuiltinRegistry(look_up_with(connect))
    push(owner, STRING, "orders-value", 1)
    found = registry.schema(STRING.schema_id)
    assert found is not None
    assert found.definition == STRING.normalised
    assert [connection.closed for connection in opened] == [True]


def test_reading_leaves_the_callers_transaction_as_it_was(relay: Connection) -> None:
    read(relay)
    assert relay.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
