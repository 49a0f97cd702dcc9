"""Sessions for the set-up, and what a refused one means.

Connection failures carry no SQLSTATE in libpq, so they are told apart by their text; the text of the server may be
translated, therefore an unknown one still gives a plain sentence. No message contains a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.rows import DictRow, dict_row

from dovetail_relay.config import Role, Settings, conninfo, scrubbed
from dovetail_relay.errors import Misconfigured, ServerUnreachable
from dovetail_relay.setup.problems import LoginRefused, PermissionMissing, PoolerBetween, TlsFailed
from dovetail_relay.setup.tls import tls_remedy
from dovetail_schemas.sql import queries

Session = psycopg.Connection[DictRow]

# Which role a DSN is for, in words.
_ROLE_KEYS: dict[Role, str] = {
    "relay": "postgres.dsn",
    "owner": "postgres.owner_dsn",
    "operator": "postgres.operator_dsn",
    "app": "postgres.app_dsn",
}

_LOGIN_TEXTS = (
    "password authentication failed", "no password supplied", "no pg_hba.conf entry", "authentication failed",
    "is not permitted to log in", "fe_sendauth", "peer authentication",
)  # fmt: skip
_REPLICATION_TEXTS = ("start WAL sender", "start walsender", "replication role")
_TLS_TEXTS = ("certificate", "SSL error", "does not support SSL", "does not match host name", "sslmode", "tlsv1")
_BUSY_TEXTS = ("too many connections", "remaining connection slots", "too many clients", "max_wal_senders")


@contextmanager
def session(settings: Settings, role: Role) -> Iterator[Session]:
    """An ordinary session in autocommit with rows as dicts; server errors inside come out named."""
    with (
        named_errors(settings, role),
        Session.connect(conninfo(settings, role), autocommit=True, row_factory=dict_row) as connection,
    ):
        if role == "operator":
            # What was asked for, and its entry in the audit log.
            connection.execute(queries["session_durable"])
        yield connection


@contextmanager
def replication_session(settings: Settings) -> Iterator[Session]:
    """A replication connection as the relay's role."""
    with named_errors(settings, "relay"):
        text = conninfo(settings, "relay")
        with Session.connect(text, autocommit=True, row_factory=dict_row, replication="database") as connection:
            yield connection


@contextmanager
def named_errors(settings: Settings, role: Role) -> Iterator[None]:
    """psycopg's errors as ours, with the remedy."""
    try:
        yield
    except psycopg.Error as error:
        raise named(error, settings, role) from error


def named(error: psycopg.Error, settings: Settings, role: Role) -> Exception:
    """What an error of PostgreSQL means for the one who has to do something about it."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return _connection_failure(scrubbed(error), settings, role)
    return _statement_failure(error, role)


def _connection_failure(text: str, settings: Settings, role: Role) -> Exception:
    key = _ROLE_KEYS[role]
    text = text.removeprefix("connection failed: ").removeprefix("connection is bad: ")
    if "unsupported startup parameter" in text:
        return PoolerBetween(f"{key} leads through a pooler: {text}; a direct connection or pgbouncer 1.23+ is needed")
    if any(word in text for word in _REPLICATION_TEXTS):
        return PermissionMissing(
            f"the role of {key} may not replicate: {text}",
            remedy="ALTER ROLE … REPLICATION, as a superuser (dovetail init --print-sql)",
        )
    if any(word in text for word in _BUSY_TEXTS):
        return ServerUnreachable(f"PostgreSQL ({key}) has no connection left: {text}")
    if any(word in text for word in _LOGIN_TEXTS):
        return LoginRefused(f"{key}: {text}", remedy=f"check user, password and pg_hba.conf for {key}")
    if "does not exist" in text and ("database" in text or "role" in text):
        return LoginRefused(f"{key}: {text}", remedy=f"check dbname and user of {key}")
    if any(word in text for word in _TLS_TEXTS):
        return TlsFailed(f"{key}: {text}", remedy=tls_remedy(settings, role))
    return ServerUnreachable(f"PostgreSQL ({key}): {text}")


# Names of ours in a message of whatever language: a table, or the schema itself.
_OURS: Final = {"42P01": re.compile(r"\bdovetail\."), "3F000": re.compile(r"\bdovetail\b")}


def _statement_failure(error: psycopg.Error, role: Role) -> Exception:
    text = scrubbed(error.diag.message_primary or error)
    state = error.sqlstate or ""
    if state == "42501":
        return PermissionMissing(f"the role of {_ROLE_KEYS[role]} lacks a right: {text}")
    if state in {"57P01", "57P02", "57P03", "08006", "08001"}:
        return ServerUnreachable(f"PostgreSQL ({_ROLE_KEYS[role]}): {text}")
    ours = _OURS.get(state)
    if ours is not None and ours.search(text):
        return Misconfigured(f"this database is not set up: {text}", remedy="dovetail init")
    if state == "55P03":
        return Misconfigured(f"a lock was not to be had in time: {text}", remedy="dovetail init, in a quieter moment")
    hint = f" ({scrubbed(error.diag.message_hint)})" if error.diag.message_hint else ""
    return Misconfigured(f"PostgreSQL refused a statement ({state or type(error).__name__}): {text}{hint}")


def one(connection: psycopg.Connection[Any], query: Any, params: dict[str, Any] | None = None) -> DictRow | None:
    """The first row as a dict, or None."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params).fetchone()


def rows(connection: psycopg.Connection[Any], query: Any, params: dict[str, Any] | None = None) -> list[DictRow]:
    """All rows as dicts."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params).fetchall()
