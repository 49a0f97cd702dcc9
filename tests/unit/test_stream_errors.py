"""What a server says to the relay's own connections is turned into a name, by code where there is one."""

from __future__ import annotations

import psycopg
import pytest

from dovetail_relay.errors import Misconfigured, PostgresUnavailable, SlotLost
from dovetail_relay.service import transactional_id
from dovetail_relay.source.replication import SlotBusy, server_error

AT = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (AT + "Connection refused", PostgresUnavailable, "Connection refused"),
        (AT + "FATAL:  the database system is shutting down", PostgresUnavailable, "shutting down"),
        (AT + "FATAL:  permission denied to start WAL sender", Misconfigured, "next: ALTER ROLE … REPLICATION"),
        (AT + "FATAL:  must be superuser or replication role to start walsender", Misconfigured, "may not replicate"),
        (AT + "ERROR:  unsupported startup parameter: replication", Misconfigured, "use pgbouncer 1.23+"),
        (
            AT + "SSL error: certificate verify failed",
            Misconfigured,
            "certificate verify failed; next: dovetail doctor",
        ),
        (AT + 'server certificate for "a" does not match host name "b"', Misconfigured, '"b"; next: dovetail doctor'),
        (AT + 'FATAL:  password authentication failed for user "relay"', Misconfigured, '"relay"'),
        (AT + 'FATAL:  database "shop" does not exist', Misconfigured, '"shop"'),
    ],
)
def test_a_refused_connection_is_a_retry_only_where_time_may_help(text: str, kind: type[Exception], said: str) -> None:
    error = server_error(psycopg.OperationalError(text), "PostgreSQL")
    assert type(error) is kind
    assert said in error.line()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("state", "kind"),
    [("55006", SlotBusy), ("42704", SlotLost), ("55000", SlotLost), ("42501", Misconfigured)],
)
def test_an_answer_with_a_code_is_told_by_the_code(state: str, kind: type[Exception]) -> None:
    assert type(server_error(psycopg.errors.lookup(state)("whatever the words are"), "slot")) is kind


def test_the_transactional_id_is_the_same_for_replicas_and_another_for_every_other_relay() -> None:
    one = transactional_id("7", "shop", "dovetail")
    assert one == transactional_id("7", "shop", "dovetail")
    others = {
        transactional_id("8", "shop", "dovetail"),
        transactional_id("7", "stock", "dovetail"),
        transactional_id("7", "shop", "dovetail_eu"),
    }
    assert len(others | {one}) == 4
