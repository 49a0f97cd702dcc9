"""Registering schemas: idempotent, safe to race, and never believed before it is committed."""

import threading
from dataclasses import dataclass

import psycopg
import pytest

import dovetail
from dovetail import errors
from dovetail.psycopg import Outbox, aregister
from dovetail.registry import DatabaseSchemas
from dovetail_schemas.avro import Codec
from support.shop import PLACED, OrderPlaced, OrderShipped

pytest_plugins = ["support.outbox_database"]

outbox = Outbox()


def versions(owner, subject="OrderPlaced"):
    return owner.execute(
        "SELECT version, fingerprint FROM dovetail.event_schema_version WHERE subject = %s ORDER BY version", (subject,)
    ).fetchall()


def version_of_order_placed(number):
    fields = [{"name": "order_id", "type": "long"}, {"name": "n", "type": "int", "default": number}]
    schema = {"type": "record", "name": "OrderPlaced", "fields": fields}
    return dovetail.EventType.from_avsc(schema, aggregate="order", key="order_id")


def test_registering_stores_the_normalised_schema_under_its_id_once(conn, owner):
    for _ in range(3):
        dovetail.register(conn, OrderPlaced, PLACED)
    assert owner.execute("SELECT fingerprint, schema_id, definition FROM dovetail.event_schema").fetchall() == [
        (PLACED.fingerprint, PLACED.codec.schema_id, PLACED.codec.normalised)
    ]
    assert versions(owner) == [(1, PLACED.fingerprint)]
    assert owner.execute("SELECT created_by FROM dovetail.event_schema_version").fetchone()[0] != owner.info.user


def test_a_changed_schema_is_the_next_version(conn, owner):
    other = version_of_order_placed(1)
    dovetail.register(conn, OrderPlaced)
    dovetail.register(conn, other, OrderPlaced)
    assert versions(owner) == [(1, PLACED.fingerprint), (2, other.fingerprint)]


def test_an_unregistered_schema_is_refused_with_the_remedy(conn):
    with (
        conn.transaction(),
        pytest.raises(errors.SchemaNotRegistered, match=r"dovetail\.register\(conn, OrderPlaced\)"),
    ):
        outbox.publish(conn, OrderPlaced(1))


def test_registration_commits_by_itself_outside_a_transaction(outbox_database, owner):
    for autocommit in (True, False):
        with psycopg.connect(outbox_database.app_dsn, autocommit=autocommit) as conn:
            dovetail.register(conn, OrderPlaced if autocommit else OrderShipped)
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert len(versions(owner)) == len(versions(owner, "OrderShipped")) == 1


@pytest.mark.parametrize("savepoint", [False, True])
def test_a_registration_that_rolls_back_is_not_remembered(conn, savepoint):
    with conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO effect (what) VALUES ('the transaction has an id')")
        if savepoint:
            with conn.transaction():
                dovetail.register(conn, OrderPlaced)
        else:
            dovetail.register(conn, OrderPlaced)
        outbox.publish(conn, OrderPlaced(1))
    with conn.transaction(), pytest.raises(errors.SchemaNotRegistered):
        outbox.publish(conn, OrderPlaced(1))


def test_a_committed_registration_is_asked_for_once_per_database(outbox_database, conn, owner):
    dovetail.register(conn, OrderPlaced)
    with conn.transaction():
        outbox.publish(conn, OrderPlaced(1))
    # Gone, and nobody notices: the answer is kept for the process, on any connection to the same database.
    owner.execute("DELETE FROM dovetail.event_schema_version")
    owner.execute("DELETE FROM dovetail.event_schema")
    with psycopg.connect(outbox_database.app_dsn) as other:
        outbox.publish(other, OrderPlaced(2))


def test_the_answer_of_one_database_is_not_taken_for_another(conn, stack):
    from support.outbox_database import install
    from support.servers import fresh_database

    dovetail.register(conn, OrderPlaced)
    with conn.transaction():
        outbox.publish(conn, OrderPlaced(1))
    with fresh_database(stack) as other:
        install(other)
        with psycopg.connect(other.app_dsn) as elsewhere, pytest.raises(errors.SchemaNotRegistered):
            outbox.publish(elsewhere, OrderPlaced(1))


def test_row_78_eight_processes_racing_to_register_find_one_schema_and_no_error(outbox_database, owner):
    kinds = [version_of_order_placed(number % 4) for number in range(8)]
    barrier = threading.Barrier(8)
    failures = []

    def register(kind):
        try:
            with psycopg.connect(outbox_database.app_dsn, autocommit=True) as conn:
                barrier.wait(10)
                dovetail.register(conn, kind)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=register, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = versions(owner)
    assert [version for version, _ in found] == [1, 2, 3, 4]
    assert {fingerprint for _, fingerprint in found} == {kind.fingerprint for kind in kinds}


def test_an_id_taken_by_another_schema_is_a_collision(conn, owner):
    # Two schemas with the same 31 bits are hard to come by.
    owner.execute("ALTER TABLE dovetail.event_schema DROP CONSTRAINT event_schema_id")
    other = Codec("int")
    owner.execute(
        "INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition) VALUES (%s, %s, %s)",
        (other.fingerprint, PLACED.codec.schema_id, other.normalised),
    )
    with pytest.raises(errors.SchemaIdCollision, match=f"has the id {PLACED.codec.schema_id}"):
        dovetail.register(conn, OrderPlaced)
    assert not versions(owner)


@pytest.mark.parametrize(("constraint", "digits"), [("event_schema_fingerprint", "0"), ("event_schema_id", "1")])
def test_no_service_can_store_a_definition_under_another_schemas_fingerprint_or_id(conn, constraint, digits):
    """Debit and credit would change places for whoever decodes the events of that schema."""
    codec = PLACED.codec
    row = (codec.fingerprint, codec.schema_id + int(digits), codec.normalised + " " * (digits == "0"))
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        conn.execute("INSERT INTO dovetail.event_schema (fingerprint, schema_id, definition) VALUES (%s, %s, %s)", row)


def test_registering_what_is_there_needs_no_write(conn):
    dovetail.register(conn, OrderPlaced)
    conn.execute("SET default_transaction_read_only = on")
    dovetail.register(conn, OrderPlaced)
    with pytest.raises(errors.ReadOnlyServer):
        dovetail.register(conn, OrderShipped)


def test_a_database_without_the_tables_is_told_to_run_init(database):
    with psycopg.connect(database.owner_dsn) as conn:
        with pytest.raises(errors.NotInstalled, match="dovetail init"):
            dovetail.register(conn, OrderPlaced)
        with pytest.raises(errors.NotInstalled, match="dovetail init"):
            outbox.publish(conn, OrderPlaced(1))


async def test_the_async_twin_registers_too(outbox_database, owner):
    async with await psycopg.AsyncConnection.connect(outbox_database.app_dsn, autocommit=True) as conn:
        await aregister(conn, OrderPlaced)
        await dovetail.aregister(conn, OrderPlaced, OrderShipped)
        with pytest.raises(TypeError, match="aregister"):
            dovetail.register(conn, OrderPlaced)
    assert len(versions(owner)) == len(versions(owner, "OrderShipped")) == 1


def test_schemas_are_read_back_from_the_database_by_id(conn, outbox_database):
    dovetail.register(conn, OrderPlaced)
    schemas = DatabaseSchemas(lambda: psycopg.connect(outbox_database.app_dsn))
    codec = schemas.codec(PLACED.codec.schema_id)
    assert isinstance(codec, Codec)
    assert codec.fingerprint == PLACED.fingerprint
    assert schemas.codec(PLACED.codec.schema_id) is codec
    with pytest.raises(errors.SchemaUnknown):
        schemas.codec(5)
    away = DatabaseSchemas(lambda: psycopg.connect("host=127.0.0.1 port=1 connect_timeout=1"))
    with pytest.raises(errors.RegistryUnavailable):
        away.codec(5)


def test_a_class_that_is_no_event_is_refused_before_anything_is_asked(conn):
    @dataclass
    class Plain:
        x: int

    with pytest.raises(errors.NotAnEvent):
        dovetail.register(conn, Plain)
