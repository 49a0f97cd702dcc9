"""Databases that are not UTF8: what init refuses, and what the doctor says of those where a relay works."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup import checks_server
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.encoding import encoding
from dovetail_relay.setup.findings import Finding
from support.installation import run_init, settings_of


@contextmanager
def database_in(stack: Stack, name_of_encoding: str) -> Iterator[Endpoints]:
    endpoints, name = stack.endpoints(), sql.Identifier(f"test_{secrets.token_hex(6)}")
    owner = sql.Identifier(str(conninfo_to_dict(endpoints.owner_dsn)["user"]))
    with psycopg.connect(endpoints.superuser_dsn, autocommit=True) as superuser:
        make = "CREATE DATABASE {} OWNER {} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        superuser.execute(sql.SQL(make).format(name, owner, name_of_encoding))
        try:
            yield endpoints.on_database(name.as_string().strip('"'))
        finally:
            superuser.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
                (name.as_string().strip('"'),),
            )
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def doctor(database: Endpoints, **settings: str) -> Finding:
    found = settings_of(database, **settings)
    with session(found, "relay") as connection:
        (finding,) = encoding(checks_server.look(connection, found))
    return finding


@pytest.mark.parametrize(
    ("name_of_encoding", "messages", "said"),
    [
        ("WIN1252", "true", "the database is in WIN1252, where a logical message, which is UTF-8, cannot be parked"),
        (
            "SQL_ASCII",
            "true",
            "the database is in SQL_ASCII, where a logical message, which is UTF-8, cannot be parked",
        ),
        ("LATIN1", "true", "the database is in LATIN1, where a logical message, which is UTF-8, cannot be parked"),
        ("LATIN1", "false", "the database is in LATIN1, which lacks characters that Dovetail writes"),
        ("EUC_JP", "false", "the database is in EUC_JP, which lacks characters that Dovetail writes"),
    ],
)
def test_an_encoding_in_which_a_relay_cannot_work_is_refused_in_one_line_and_nothing_is_made(
    stack: Stack, name_of_encoding: str, messages: str, said: str
) -> None:
    with database_in(stack, name_of_encoding) as database:
        for change in (False, True):
            with pytest.raises(Misconfigured) as caught:
                run_init(settings_of(database, outbox__messages=messages), change=change)
            assert str(caught.value).startswith(f"{said}; allowed: UTF8")
            assert "ENCODING 'UTF8'" in caught.value.remedy
        with psycopg.connect(database.owner_dsn) as owner:
            assert owner.execute("SELECT to_regnamespace('dovetail')").fetchone() == (None,)
        finding = doctor(database, outbox__messages=messages)
        assert (finding.status, finding.found.startswith(said)) == ("fail", True)


@pytest.mark.parametrize("name_of_encoding", ["WIN1250", "WIN1252", "WIN1258", "SQL_ASCII"])
def test_without_messages_some_others_are_taken_and_the_doctor_warns_of_them(
    stack: Stack, name_of_encoding: str
) -> None:
    with database_in(stack, name_of_encoding) as database:
        run_init(settings_of(database))
        finding = doctor(database)
        assert (finding.status, finding.check, finding.found) == ("warn", "postgres.encoding", name_of_encoding)


def test_utf8_is_as_it_should_be(database: Endpoints) -> None:
    finding = doctor(database, outbox__messages="true")
    assert (finding.status, finding.found) == ("ok", "UTF8")
