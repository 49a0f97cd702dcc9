"""Who may publish into dovetail.outbox: services, once a relay reads it, and nobody where it would go nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import dovetail
from dovetail.psycopg import Outbox
from dovetail_local.endpoints import Endpoints
from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup import checks_outbox
from dovetail_relay.setup.checks_server import look
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.findings import Finding
from support.installation import run_init, settings_of, states
from support.writers import numbered, prepare

RIGHT = "dovetail_app may insert into dovetail.outbox"
AGGREGATE = "order"


@pytest.fixture
def owner(database: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE public.outboxevent (id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text NOT NULL,"
            " type text NOT NULL, payload jsonb)"
        )
        yield connection


@pytest.fixture
def own(database: Endpoints) -> Settings:
    return settings_of(database)


@pytest.fixture
def foreign(database: Endpoints) -> Settings:
    return settings_of(database, outbox__table="public.outboxevent")


def publish(database: Endpoints) -> None:
    """Both ways of a service into dovetail.outbox; the first raises where it may not."""
    with psycopg.connect(database.app_dsn) as connection:
        Outbox().publish(connection, numbered(AGGREGATE)({"key": "k", "number": 1}))
        connection.execute(
            "SELECT dovetail.publish(%s, 'k', 'Numbered', '{\"key\": \"k\", \"number\": 2}')", (AGGREGATE,)
        )


def unread(settings: Settings) -> list[Finding]:
    with session(settings, "relay") as connection:
        return list(checks_outbox.unread(look(connection, settings)))


def test_where_the_only_relay_reads_another_table_a_service_cannot_publish_into_ours(
    database: Endpoints, owner: psycopg.Connection[Any], foreign: Settings
) -> None:
    for _ in range(2):
        assert RIGHT not in states(run_init(foreign))
    prepare(database, AGGREGATE)
    with pytest.raises(dovetail.errors.NotInstalled):
        publish(database)
    with psycopg.connect(database.app_dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT dovetail.publish(%s, 'k', 'Numbered', '{}')", (AGGREGATE,))
    assert [finding.status for finding in unread(foreign)] == ["ok"]


@pytest.mark.parametrize("own_first", [True, False])
def test_with_a_relay_for_each_table_services_may_publish_in_whatever_order_they_were_set_up(
    database: Endpoints, owner: psycopg.Connection[Any], own: Settings, foreign: Settings, own_first: bool
) -> None:
    for settings in (own, foreign) if own_first else (foreign, own):
        run_init(settings)
    for settings in (own, foreign, own):
        assert {step.state for step in run_init(settings)} == {"there"}
    prepare(database, AGGREGATE)
    publish(database)
    assert owner.execute("SELECT count(*) FROM dovetail.outbox").fetchone() == (2,)
    assert [finding.found for finding in unread(foreign)] == ["dovetail.outbox is read by another relay"]


def test_events_that_no_relay_reads_and_a_right_that_nobody_needs_fail_the_doctor(
    database: Endpoints, owner: psycopg.Connection[Any], own: Settings, foreign: Settings
) -> None:
    run_init(own)
    run_init(foreign)
    owner.execute("DELETE FROM dovetail.relay WHERE name = %s", (own.relay.name,))
    (finding,) = unread(foreign)
    assert (finding.status, finding.check) == ("fail", "dovetail.outbox_unread")
    assert finding.found == "services may publish into dovetail.outbox, and no relay reads it"
    prepare(database, AGGREGATE)
    publish(database)
    (finding,) = unread(foreign)
    assert finding.found == "dovetail.outbox holds events, and no relay reads it"
    assert "REVOKE INSERT ON dovetail.outbox FROM dovetail_app; TRUNCATE dovetail.outbox" in finding.remedy
    owner.execute("REVOKE INSERT ON dovetail.outbox FROM dovetail_app; TRUNCATE dovetail.outbox")
    assert [finding.status for finding in unread(foreign)] == ["ok"]


def test_without_the_owners_dsn_a_missing_right_is_refused_like_a_missing_migration(
    database: Endpoints, owner: psycopg.Connection[Any], own: Settings
) -> None:
    run_init(own)
    owner.execute("REVOKE INSERT ON dovetail.outbox FROM dovetail_app")
    environ = database.environment() | {"DOVETAIL_RELAY__NAME": f"t{secrets.token_hex(6)}"}
    del environ["DOVETAIL_POSTGRES__OWNER_DSN"]
    with pytest.raises(Misconfigured, match=r"may insert into dovetail\.outbox is missing") as caught:
        run_init(settings_of(database, environ))
    assert "--print-sql" in caught.value.remedy
    assert states(run_init(own))[RIGHT] == "done"
