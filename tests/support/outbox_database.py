"""A database with Dovetail's tables, and connections to it as the application's role."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from dovetail_local.endpoints import Endpoints
from dovetail_relay.decode.pgoutput import FIELDS
from dovetail_relay.setup.grants import publishing_sql
from dovetail_schemas.sql import migrations


def install(endpoints: Endpoints) -> None:
    """Apply the migrations as the owner and let the application's login in."""
    role = psycopg.conninfo.conninfo_to_dict(endpoints.app_dsn)["user"]
    with psycopg.connect(endpoints.owner_dsn) as connection:
        for migration in migrations():
            connection.execute(migration.sql)
        connection.execute(publishing_sql(FIELDS))
        connection.execute("CREATE TABLE effect (id bigserial PRIMARY KEY, what text NOT NULL)")
        connection.execute(sql.SQL("GRANT dovetail_app TO {}").format(sql.Identifier(str(role))))
        connection.execute(sql.SQL("GRANT ALL ON effect, effect_id_seq TO {}").format(sql.Identifier(str(role))))


@pytest.fixture
def outbox_database(database: Endpoints) -> Endpoints:
    """Give a fresh database that is ready for services."""
    install(database)
    return database


@pytest.fixture
def conn(outbox_database: Endpoints) -> Iterator[psycopg.Connection]:
    """Give an autocommit connection as the application."""
    with psycopg.connect(outbox_database.app_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(outbox_database: Endpoints) -> Iterator[psycopg.Connection]:
    """Give an autocommit connection that may read everything."""
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as connection:
        yield connection
