"""What the outbox table itself refuses, whoever inserts and by whatever means."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

pytest_plugins = ["support.outbox_database"]

GOOD = {
    "id": UUID(int=1),
    "aggregatetype": "order",
    "aggregateid": "k",
    "type": "Placed",
    "payload": b"{}",
    "schema_fingerprint": bytes(16),
    "encoding": "avro",
    "headers": "{}",
}
INSERT = f"INSERT INTO dovetail.outbox ({', '.join(GOOD)}) VALUES ({', '.join(f'%({name})s' for name in GOOD)})"


@pytest.mark.parametrize("column", ["id", "aggregatetype", "aggregateid", "type", "payload", "encoding", "headers"])
def test_a_row_without_a_value_that_it_needs_is_refused_at_the_insert(conn: psycopg.Connection, column: str) -> None:
    conn.execute(INSERT, GOOD)
    with pytest.raises(psycopg.errors.NotNullViolation, match=f'null value in column "{column}"'):
        conn.execute(INSERT, GOOD | {"id": UUID(int=2), column: None})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("aggregatetype", ""),
        ("aggregatetype", "t" * 201),
        ("aggregateid", ""),
        ("aggregateid", "k" * 1025),
        ("type", ""),
        ("type", "t" * 256),
        ("schema_fingerprint", b"short"),
        ("encoding", "xml"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_at_the_insert(
    conn: psycopg.Connection, column: str, value: object
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=column):
        conn.execute(INSERT, GOOD | {column: value})


@pytest.mark.parametrize("statement", ["UPDATE dovetail.outbox SET type = 'x'", "DELETE FROM dovetail.outbox"])
def test_a_service_may_neither_change_nor_take_back_an_event(conn: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement)


@pytest.mark.parametrize(("column", "value"), [("xid", "3"), ("seq", "1"), ("bucket", "0")])
def test_a_service_may_not_set_what_recovery_replay_and_ring_go_by(
    conn: psycopg.Connection, column: str, value: str
) -> None:
    chosen = INSERT.replace("headers)", f"headers, {column}) OVERRIDING SYSTEM VALUE", 1).replace(
        "%(headers)s", f"%(headers)s, '{value}'", 1
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(chosen, GOOD)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.cursor() as cursor:
        with cursor.copy(f"COPY dovetail.outbox ({', '.join(GOOD)}, {column}) FROM STDIN") as copy:
            copy.write_row([*GOOD.values(), value])


def test_a_service_may_insert_and_copy_all_the_rest(conn: psycopg.Connection, owner: psycopg.Connection) -> None:
    conn.execute(INSERT, GOOD)
    with (
        conn.cursor() as cursor,
        cursor.copy(f"COPY dovetail.outbox ({', '.join(GOOD)}, created_at) FROM STDIN") as copy,
    ):
        copy.write_row([*(GOOD | {"id": UUID(int=2)}).values(), "2026-01-01"])
    assert owner.execute("SELECT count(*) FROM dovetail.outbox WHERE xid > '3'").fetchone() == (2,)
