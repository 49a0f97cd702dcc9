"""Migrations: each in its own transaction, recorded in the same one, one init at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg

from dovetail_relay.setup.connect import one, rows
from dovetail_relay.setup.problems import InitRunning, MigrationChanged
from dovetail_relay.setup.steps import Step
from dovetail_relay.source.lead import lock_key
from dovetail_schemas.sql import Migration, migrations, queries

Phase = Literal["pre", "all"]

# Another init in a rollout holds the lock for seconds; a minute means that something hangs.
_LOCK_PATIENCE_SECONDS = 60.0
_LOCK_PAUSE_SECONDS = 0.2

# Rather fail than queue: behind a waiting ALTER TABLE every insert of the service queues as well.
_LOCK_TIMEOUT = "10s"


def applied(connection: psycopg.Connection[Any]) -> dict[int, str]:
    """version -> checksum of what was applied to this database; empty when none ever was."""
    found = one(connection, queries["setup_has_schema"])
    if found is None or not found["found"]:
        return {}
    return {row["version"]: row["checksum"] for row in rows(connection, queries["setup_applied_migrations"])}


def wanted(phase: Phase) -> tuple[Migration, ...]:
    """All migrations; for `pre` without those at the end that belong behind the deployment of the new code."""
    every = migrations()
    last = max((m.version for m in every if m.phase == "pre"), default=0) if phase == "pre" else len(every)
    return tuple(m for m in every if m.version <= last)


def pending(done: dict[int, str], phase: Phase = "all") -> tuple[Migration, ...]:
    """What is still to be applied. Raises MigrationChanged when an applied one was edited."""
    for migration in migrations():
        recorded = done.get(migration.version)
        if recorded is not None and recorded != migration.checksum:
            raise MigrationChanged(
                f"migration {migration.version:04d} {migration.name} was applied with checksum {recorded[:12]}…,"
                f" this program has {migration.checksum[:12]}…",
            )
    return tuple(m for m in wanted(phase) if m.version not in done)


def migrate(connection: psycopg.Connection[Any], *, change: bool, phase: Phase = "all") -> Iterator[Step]:
    """Apply what is missing, as the owner; one step per migration, or one that says there was none."""
    if not change:
        yield from _only_look(applied(connection), phase)
        return
    with only_init(connection):
        done = applied(connection)
        todo = pending(done, phase)
        for migration in todo:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                connection.execute(migration.sql)
                connection.execute(
                    queries["setup_record_migration"],
                    {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
                )
            yield Step(f"migration {migration.version:04d} {migration.name}", "done")
        if not todo:
            yield Step("migrations", "there", _at(done))


def _only_look(done: dict[int, str], phase: Phase) -> Iterator[Step]:
    todo = pending(done, phase)
    for migration in todo:
        yield Step(f"migration {migration.version:04d} {migration.name}", "missing")
    if not todo:
        yield Step("migrations", "there", _at(done))


def _at(done: dict[int, str]) -> str:
    newest, known = max(done, default=0), len(migrations())
    newer = f", newer than this program, which knows {known}" if newest > known else ""
    return f"the database is at {newest:04d}{newer}"


@contextmanager
def only_init(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Hold the init lock of this database. Raises InitRunning when it is not free within a minute."""
    key = {"key": lock_key("init", "migrations")}
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while not (one(connection, queries["setup_try_lock"], key) or {})["taken"]:
        if time.monotonic() > deadline:
            raise InitRunning("another dovetail init holds the lock of this database")
        time.sleep(_LOCK_PAUSE_SECONDS)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(queries["setup_unlock"], key)
