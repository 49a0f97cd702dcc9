"""Fixtures with real servers: one stack for the whole session, one database per test."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE, Endpoints
from dovetail_local.stack import Stack, temporary_folder
from support.waiting import wait_until

_GONE_SECONDS = 10.0


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """Give a running stack of the asked versions; servers named in the environment are used instead of their kind."""
    given = {"postgres": POSTGRES_VARIABLE, "kafka": KAFKA_VARIABLE}
    parts = frozenset(part for part, variable in given.items() if not os.environ.get(variable))
    running = Stack(
        temporary_folder(),
        brokers=pytestconfig.getoption("--brokers"),
        postgres_version=pytestconfig.getoption("--postgres-version"),
        kafka_version=pytestconfig.getoption("--kafka-version"),
        durable=False,
        temporary=True,
        parts=parts,
    )
    running.up(attached=True)
    yield running
    running.down()


@contextlib.contextmanager
def own_servers(**options: Any) -> Iterator[Stack]:
    """Servers that nobody else uses: they may be stopped and broken. `options` are those of Stack."""
    servers = Stack(temporary_folder(), durable=False, temporary=True, **options)
    servers.up(attached=True)
    try:
        yield servers
    finally:
        servers.down()


@contextlib.contextmanager
def fresh_database(stack: Stack) -> Iterator[Endpoints]:
    """Make a database that nobody else uses, owned by `owner`; afterwards drop it with its replication slots."""
    endpoints = stack.endpoints()
    name = f"test_{secrets.token_hex(6)}"
    owner = psycopg.conninfo.conninfo_to_dict(endpoints.owner_dsn)["user"]
    with psycopg.connect(endpoints.superuser_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(str(owner)))
        )
    try:
        yield endpoints.on_database(name)
    finally:
        with psycopg.connect(endpoints.superuser_dsn, autocommit=True) as connection:
            _drop(connection, name)


def _drop(connection: psycopg.Connection, name: str) -> None:
    slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"

    def no_slot_is_in_use() -> bool:
        rows = connection.execute(slots, (name,)).fetchall()
        for _, pid in rows:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        return all(pid is None for _, pid in rows)

    wait_until(no_slot_is_in_use, _GONE_SECONDS, f"the slots of {name} are let go")
    for slot, _ in connection.execute(slots, (name,)).fetchall():
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(stack: Stack) -> Iterator[Endpoints]:
    """Give this test a database of its own."""
    with fresh_database(stack) as endpoints:
        yield endpoints
