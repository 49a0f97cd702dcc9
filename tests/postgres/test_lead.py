"""The lock session: who may lead, who may sit by, who is evicted, and what a lost session says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.assembly import intake_for
from dovetail_relay.config import load
from dovetail_relay.errors import LeadLost, Misconfigured, PostgresUnavailable, StreamEnded
from dovetail_relay.nouns import LSN_ZERO, Lsn
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.source.lead import LockSession, lock_key
from dovetail_relay.source.replication import SlotBusy, open_stream
from dovetail_relay.telemetry import Telemetry
from dovetail_schemas.avro import Codec
from support.outbox_database import outbox_database
from support.roles import admit_logins
from support.waiting import wait_until

__all__ = ["outbox_database"]

Open = Callable[..., LockSession]


@pytest.fixture
def session(database: Endpoints) -> Iterator[Open]:
    made: list[LockSession] = []

    def new(slot: str = "dovetail", endpoints: Endpoints = database) -> LockSession:
        made.append(LockSession(endpoints.relay_dsn, slot=slot, relay="relay"))
        return made[-1]

    yield new
    for one in made:
        one.close()


def test_one_leads_one_has_the_seat_and_a_third_has_neither(session: Open) -> None:
    first, second, third = session(), session(), session()
    assert first.try_lead()
    assert not second.try_lead()
    assert second.try_seat()
    assert not third.try_lead()
    assert not third.try_seat()
    assert not (second.leads or third.leads)


def test_the_lead_is_free_as_soon_as_the_leaders_session_ends(session: Open) -> None:
    first, second = session(), session()
    assert first.try_lead()
    assert first.try_lead()  # asking twice takes it once
    first.close()
    wait_until(second.try_lead, 2, "the second leads")


def test_a_leader_that_leaves_the_seat_lets_the_next_one_sit(session: Open) -> None:
    first, second, third = session(), session(), session()
    assert first.try_lead()
    assert second.try_seat()
    first.close()
    wait_until(second.try_lead, 2, "the second leads")
    second.leave_seat()
    assert third.try_seat()


def test_relays_with_other_slots_do_not_meet(session: Open) -> None:
    assert session("one").try_lead()
    assert session("two").try_lead()
    assert len({lock_key(purpose, slot) for purpose in ("lead", "seat") for slot in ("one", "two")}) == 4


def test_a_leader_that_is_silent_for_a_lease_is_evicted_and_says_so(session: Open) -> None:
    leader, standby = session(), session()
    assert leader.try_lead()
    assert standby.evict_frozen(30) == []
    wait_until(lambda: standby.evict_frozen(0.2), 5, "the silent leader is ended")
    wait_until(standby.try_lead, 2, "the standby leads")
    with pytest.raises(LeadLost):
        leader.pulse()


def test_a_leader_that_touches_its_session_is_left_alone(session: Open) -> None:
    leader, standby = session(), session()
    assert leader.try_lead()
    for _ in range(20):
        leader.pulse()
        assert standby.evict_frozen(1) == []


@pytest.mark.parametrize("number", [1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), 0, -1])
def test_eviction_finds_the_holder_whatever_the_keys_bits(session: Open, number: int) -> None:
    leader, standby = session(), session()
    leader._lead_key = standby._lead_key = number
    assert leader.try_lead()
    wait_until(lambda: len(standby.evict_frozen(0.05)) == 1, 5, "found and ended")


def test_a_session_that_was_ended_is_lead_lost_for_a_leader_and_a_retry_for_others(
    session: Open, database: Endpoints
) -> None:
    leader, standby = session(), session()
    assert leader.try_lead()
    with psycopg.connect(database.superuser_dsn, autocommit=True) as superuser:
        for one in (leader, standby):
            superuser.execute("SELECT pg_terminate_backend(%s)", (one.connection.info.backend_pid,))
    with pytest.raises(LeadLost):
        leader.pulse()
    with pytest.raises(PostgresUnavailable):
        standby.try_lead()


def test_a_stranger_on_the_slot_that_may_not_be_ended_is_named_with_what_to_type(
    session: Open, database: Endpoints
) -> None:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as superuser:
        superuser.execute("CREATE PUBLICATION stranger")
        superuser.execute("SELECT pg_create_logical_replication_slot('strangers', 'pgoutput')")
        dsn = psycopg.conninfo.make_conninfo(database.superuser_dsn, application_name="pg_recvlogical")
        stream = open_stream(dsn, slot="strangers", publication="stranger", start=LSN_ZERO)
        try:
            (found,) = superuser.execute(
                "SELECT active_pid, current_user FROM pg_replication_slots WHERE slot_name = 'strangers'"
            ).fetchall()
            with pytest.raises(SlotBusy) as raised:
                session("strangers").free_slot()
            assert f"held by pid {found[0]} of user {found[1]!r}, application 'pg_recvlogical'" in str(raised.value)
            assert raised.value.remedy.startswith(f"SELECT pg_terminate_backend({found[0]})")
        finally:
            stream.close()
            wait_until(lambda: dropped(superuser), 5, "the slot is gone")


def dropped(superuser: psycopg.Connection) -> bool:
    with contextlib.suppress(psycopg.errors.ObjectInUse):
        superuser.execute("SELECT pg_drop_replication_slot('strangers')")
        return True
    return False


def test_the_pulse_of_a_missing_slot_has_no_position(session: Open) -> None:
    pulse = session().pulse()
    assert (pulse.slot_active, pulse.wal_status, pulse.confirmed_flush) == (False, None, 0)
    assert pulse.xmin > 0
    assert pulse.insert_lsn > 0


def test_a_stream_that_is_not_on_the_server_of_the_lock_ends_the_reign(session: Open) -> None:
    # Where a DSN of several hosts leads to two primaries, the slot of this one is idle, or not there.
    with pytest.raises(StreamEnded):
        session().check_stream(Lsn(0))


def test_no_lock_session_stays_in_a_transaction(session: Open) -> None:
    leader, standby = session(), session()
    leader.try_lead()
    standby.try_lead()
    standby.try_seat()
    leader.pulse()
    assert {str(one.connection.info.transaction_status.name) for one in (leader, standby)} == {"IDLE"}


def test_a_database_without_our_tables_is_misconfigured_with_the_next_command(session: Open) -> None:
    with pytest.raises(Misconfigured) as raised:
        session().relay_row()
    assert raised.value.remedy == "dovetail init"


@pytest.mark.parametrize("dsn", ["wrong password", "no such database", "nobody listens"])
def test_a_session_that_cannot_be_opened_is_a_named_error_without_the_password(database: Endpoints, dsn: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database.relay_dsn)
    other = {
        "wrong password": {"password": "not-the-password"},
        "no such database": {"dbname": "no_such_database"},
        "nobody listens": {"port": "1"},
    }[dsn]
    with pytest.raises((Misconfigured, PostgresUnavailable)) as raised:
        LockSession(psycopg.conninfo.make_conninfo(**{**parts, **other}), slot="s", relay="r")
    if dsn != "nobody listens":
        assert isinstance(raised.value, Misconfigured)
    assert str(parts["password"]) not in raised.value.line()
    assert "not-the-password" not in raised.value.line()
    assert "\n" not in raised.value.line()


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
def test_a_transaction_has_ended_once_others_can_see_what_it_did(session: Open, database: Endpoints, ends: str) -> None:
    leader = session()
    with psycopg.connect(database.owner_dsn, autocommit=True) as writer:
        writer.execute("BEGIN")
        row = writer.execute("SELECT pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        xid = int(row[0])
        assert not leader.has_ended(xid)
        assert not leader.has_ended(xid + 100_000)
        writer.execute(ends)
        assert leader.has_ended(xid)


def test_a_schema_is_looked_for_until_its_transaction_can_be_seen(outbox_database: Endpoints, session: Open) -> None:
    """A commit streams before others see it: the relay reads the event while its schema is not there for it yet."""
    admit_logins(outbox_database)
    codec, leader = Codec("string"), session(endpoints=outbox_database)
    with psycopg.connect(outbox_database.owner_dsn) as writer:
        writer.execute(
            "INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition) VALUES (%s, %s, %s)",
            (codec.fingerprint, codec.schema_id, codec.normalised),
        )
        row = writer.execute("SELECT pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        settings = load(None, {**outbox_database.environment(), "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:1"})
        intake = intake_for(settings, leader, BuiltinRegistry(), Telemetry())
        intake.xid = int(row[0])
        # Bound once: what the relay asks for each fingerprint that it does not know.
        with ThreadPoolExecutor(1) as side:
            found = side.submit(intake.learn, codec.fingerprint)
            with pytest.raises(TimeoutError):
                found.result(timeout=0.3)
            writer.commit()
            assert found.result(timeout=10)
    assert not intake.learn(b"u" * 16)


def test_the_newest_time_is_that_of_an_event_that_is_dated_ahead_and_never_waited_for(
    outbox_database: Endpoints, session: Open
) -> None:
    admit_logins(outbox_database)
    leader = session(endpoints=outbox_database)
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as owner:
        row = owner.execute("SELECT floor(extract(epoch FROM now()))::bigint").fetchone()
        assert row is not None
        now: int = row[0]
        assert now <= leader.newest_time() <= now + 60
        for ahead in ("1 hour", "2 days", "-1 hour"):
            owner.execute(
                "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, created_at)"
                " VALUES (gen_random_uuid(), 'order', 'k', 'Placed', '', now() + %s::interval)",
                (ahead,),
            )
        assert now + 3600 <= leader.newest_time() <= now + 3660
        with owner.transaction():
            owner.execute("LOCK TABLE dovetail.outbox IN ACCESS EXCLUSIVE MODE")
            assert leader.newest_time() <= now + 60
        assert now + 3600 <= leader.newest_time()
