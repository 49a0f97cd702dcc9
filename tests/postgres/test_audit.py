"""The audit log: nobody changes it through the front door, and what comes through the back door is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.config import Settings
from dovetail_relay.operate.audit import Chain, entries, verify
from dovetail_relay.source.commands import audit
from support.installation import settings_of
from support.outbox_database import outbox_database
from support.roles import admit_logins

__all__ = ["outbox_database"]


@pytest.fixture
def settings(outbox_database: Endpoints) -> Settings:
    admit_logins(outbox_database)
    return settings_of(outbox_database)


@pytest.fixture
def operator(settings: Settings, outbox_database: Endpoints) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_database.operator_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(settings: Settings, outbox_database: Endpoints) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as connection:
        yield connection


def write(connection: psycopg.Connection, *actions: str) -> None:
    for action in actions:
        audit(
            connection, action, "relay shop — Straße", reason=None if action == "b" else 'why "ü", not?',
            before={"n": 1.50, "ü": None}, after=None if action == "c" else {"b": [1, 2], "a": "x, 3:y"},
        )  # fmt: skip


def test_a_chain_that_nobody_touched_is_whole(settings: Settings, operator: psycopg.Connection) -> None:
    assert verify(settings, None) == Chain(0, None)
    write(operator, "a", "b", "c")
    found = verify(settings, None)
    assert (found.entries, found.bad) == (3, None)
    assert found.head is not None
    assert verify(settings, found.head) == found
    assert [entry["action"] for entry in entries(settings, since=None, action=None, actor=None, most=2)] == ["c", "b"]
    now = datetime.now(UTC)
    asked = {"action": "b", "actor": "operator", "most": 9}
    assert len(entries(settings, since=now - timedelta(hours=1), **asked)) == 1  # type: ignore[arg-type]
    assert entries(settings, since=now + timedelta(hours=1), **asked) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("login", ["operator", "owner"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE dovetail.audit_log SET reason = 'x'", "DELETE FROM dovetail.audit_log", "TRUNCATE dovetail.audit_log"],
)
def test_no_entry_is_changed_or_taken_away(
    statement: str, login: str, operator: psycopg.Connection, owner: psycopg.Connection
) -> None:
    write(operator, "a")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        (operator if login == "operator" else owner).execute(statement)


def test_number_time_actor_and_hashes_are_the_databases_word(settings: Settings, operator: psycopg.Connection) -> None:
    operator.execute(
        "INSERT INTO dovetail.audit_log (seq, at, actor, action, target, prev_hash, hash)"
        " VALUES (7, '2001-01-01', 'somebody', 'a', 't', '\\x00', decode(repeat('ab', 32), 'hex'))"
    )
    (entry,) = entries(settings, since=None, action=None, actor=None, most=9)
    assert (entry["seq"], entry["actor"]) == (1, "operator")
    assert entry["at"].year > 2001
    assert verify(settings, None).bad is None


@pytest.mark.parametrize(
    ("tampering", "bad", "why"),
    [
        ("UPDATE dovetail.audit_log SET reason = 'another' WHERE seq = 2", 2, "not those that were hashed"),
        ("UPDATE dovetail.audit_log SET at = at - interval '1 microsecond' WHERE seq = 2", 2, "not those that"),
        ("UPDATE dovetail.audit_log SET actor = 'bob' WHERE seq = 4", 4, "not those that were hashed"),
        ("DELETE FROM dovetail.audit_log WHERE seq = 3", 4, "entry 3 is not there"),
        ("DELETE FROM dovetail.audit_log WHERE seq = 1", 2, "entry 1 is not there"),
        ("UPDATE dovetail.audit_log SET prev_hash = hash WHERE seq = 2", 2, "does not follow"),
    ],
)
def test_an_owner_who_rewrites_one_entry_is_found(
    tampering: str, bad: int, why: str, settings: Settings, operator: psycopg.Connection, owner: psycopg.Connection
) -> None:
    write(operator, "a", "b", "c", "a")
    owner.execute("ALTER TABLE dovetail.audit_log DISABLE TRIGGER USER")
    owner.execute(tampering)
    found = verify(settings, None)
    assert found.bad == bad
    assert why in (found.why or "")


def test_an_owner_who_computes_the_whole_chain_anew_is_found_by_the_head_in_kafka(
    settings: Settings, operator: psycopg.Connection, owner: psycopg.Connection
) -> None:
    write(operator, "a", "b", "c")
    anchor = verify(settings, None).head
    owner.execute("ALTER TABLE dovetail.audit_log DISABLE TRIGGER USER")
    owner.execute("UPDATE dovetail.audit_log SET reason = 'another' WHERE seq = 1")
    owner.execute(
        """DO $$ DECLARE last bytea := decode(repeat('00', 32), 'hex'); row dovetail.audit_log; BEGIN
             FOR row IN SELECT * FROM dovetail.audit_log ORDER BY seq LOOP
               row.prev_hash := last;
               last := sha256(dovetail.audit_bytes(row));
               UPDATE dovetail.audit_log SET prev_hash = row.prev_hash, hash = last WHERE seq = row.seq;
             END LOOP; END $$"""
    )
    assert verify(settings, None).bad is None
    found = verify(settings, anchor)
    assert (found.bad, "rewritten" in (found.why or "")) == (3, True)
    owner.execute("DELETE FROM dovetail.audit_log WHERE seq = 3")
    found = verify(settings, anchor)
    assert (found.bad, "the newest are gone" in (found.why or "")) == (3, True)


def test_an_owner_who_also_changes_the_databases_own_functions_is_found(
    settings: Settings, operator: psycopg.Connection, owner: psycopg.Connection
) -> None:
    write(operator, "a")
    owner.execute(
        "CREATE OR REPLACE FUNCTION dovetail.audit_bytes(entry dovetail.audit_log) RETURNS bytea LANGUAGE sql"
        " IMMUTABLE AS $$ SELECT '\\x00'::bytea $$"
    )
    write(operator, "b")
    assert verify(settings, None).bad == 2


def test_writers_at_the_same_time_make_one_chain_without_a_fork(settings: Settings, outbox_database: Endpoints) -> None:
    def work() -> None:
        with psycopg.connect(outbox_database.operator_dsn) as connection:
            for number in range(20):
                write(connection, "a")
                if number % 5 == 4:
                    connection.rollback()
                else:
                    connection.commit()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = verify(settings, None)
    assert (found.entries, found.bad, found.why) == (64, None, None)
