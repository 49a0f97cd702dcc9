"""One event's row, found in tables of any shape."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.observe.database import OutboxRow, find_event, looking
from support.installation import settings_of

ID = UUID("0198f7c2-0000-7000-8000-000000000001")
DEBEZIUM = "id uuid PRIMARY KEY, aggregatetype varchar(255), aggregateid varchar(255), type varchar(255)"
MADE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def owner(database: Endpoints) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO operator, relay")
        connection.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO operator, relay")
        yield connection


@pytest.mark.parametrize(
    ("columns", "values", "size", "created_at"),
    [
        ("payload jsonb", """'{"a": 1}'""", 8, None),
        ("payload json", """'{"a":1}'""", 7, None),
        ("payload text", "'üb'", 3, None),
        ("payload bytea", r"'\x000102'", 3, None),
        ("payload jsonb", "NULL", None, None),
        ("payload bytea, headers jsonb, created_at timestamptz", f"'x', '{{}}', '{MADE.isoformat()}'", 1, MADE),
        ("payload bytea, created_at bigint, bucket text, xid bigint", "'x', 7, 'mine', 8", 1, None),
    ],
)
def test_an_event_is_found_whatever_the_table_looks_like(
    owner: psycopg.Connection, database: Endpoints, columns: str, values: str, size: int | None, created_at: object
) -> None:
    owner.execute(f"CREATE TABLE shop.events ({DEBEZIUM}, {columns})")
    owner.execute(f"INSERT INTO shop.events VALUES ('{ID}', 'order', 'k', 'Placed', {values})")
    settings = settings_of(database, outbox__table="shop.events")
    with looking(settings) as connection:
        found = find_event(connection, settings, ID)
    assert found == OutboxRow(ID, "order", "k", "Placed", created_at, size, None, None)
