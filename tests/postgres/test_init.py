"""`dovetail init` against a real server: what it makes, what it leaves alone, what it refuses."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dovetail_local.endpoints import Endpoints
from dovetail_local.postgres import packaged_binaries
from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured, OutboxAltered, PublicationChanged, SlotLost
from dovetail_relay.setup import slot as slot_room
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.grants import Logins
from dovetail_relay.setup.migrate import migrate
from dovetail_relay.setup.problems import MigrationChanged, PermissionMissing, SlotWithoutRow
from dovetail_relay.setup.script import sql_script
from dovetail_relay.source.publication import publication_fingerprint, read_publication
from support.installation import run_init, settings_of, states

PUBLISHED = (
    "aggregateid", "aggregatetype", "created_at", "encoding", "headers", "id", "payload", "schema_fingerprint", "type",
)  # fmt: skip


@contextmanager
def superuser(database: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        yield connection


def scalar(database: Endpoints, query: str, *params: object) -> Any:
    with superuser(database) as connection:
        row = connection.execute(query, params).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None


def psql() -> str:
    """The one that comes with the local stack, else the system's."""
    packaged = packaged_binaries("18")
    return str(packaged / "bin" / "psql") if packaged else "psql"


def slots(database: Endpoints, settings: Settings) -> int:
    return int(scalar(database, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", settings.relay.slot))


def test_the_first_init_makes_everything_and_the_second_finds_it_there(database: Endpoints) -> None:
    settings = settings_of(database)

    first, second = run_init(settings), run_init(settings)

    assert states(first)[f"slot {settings.relay.slot}"] == "done"
    assert {step.state for step in second} == {"there"}
    with superuser(database) as connection:
        publication = read_publication(connection, "dovetail")
        row = connection.execute(
            "SELECT slot, system_id, epoch, partition_counts, started_at FROM dovetail.relay"
        ).fetchone()
    assert (publication.actions, publication.via_root, publication.all_tables) == ({"insert"}, True, False)
    assert [(table.schema, table.table, table.columns) for table in publication.tables] == [
        ("dovetail", "outbox", PUBLISHED)
    ]
    assert row is not None
    assert (row[0], row[2], row[3], row[4]) == (settings.relay.slot, 1, {settings.checkpoint_topic: 1}, None)
    assert row[1] == str(scalar(database, "SELECT system_identifier FROM pg_control_system()"))


def test_the_slot_begins_where_the_relay_row_says_and_survives_a_failover_where_the_server_can(
    database: Endpoints,
) -> None:
    settings = settings_of(database)
    run_init(settings)
    with superuser(database) as connection:
        found = slot_room.slot_facts(connection, settings.relay.slot)
        point = connection.execute("SELECT consistent_point::text FROM dovetail.relay").fetchone()
        version = connection.info.server_version
    assert found is not None
    assert point is not None
    assert (found["plugin"], found["confirmed_flush_lsn"], found["temporary"]) == ("pgoutput", point[0], False)
    assert found["two_phase"] is False
    assert found.get("failover", version < 170000)


def test_a_check_changes_nothing_and_tells_what_is_missing(database: Endpoints) -> None:
    settings = settings_of(database)
    assert "missing" in states(run_init(settings, change=False)).values()
    assert scalar(database, "SELECT to_regnamespace('dovetail')") is None

    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    found = states(run_init(settings, change=False))
    assert found[f"slot {settings.relay.slot}"] == found[f"topic {settings.checkpoint_topic}"] == "missing"
    assert slots(database, settings) == 0


def test_without_the_owners_dsn_init_asks_for_it_or_for_an_administrator(database: Endpoints) -> None:
    settings = settings_of(database)
    without = dataclasses.replace(settings, postgres=dataclasses.replace(settings.postgres, owner_dsn=None))
    with pytest.raises(Misconfigured, match=r"postgres\.owner_dsn is not set") as caught:
        run_init(without)
    assert "--print-sql" in caught.value.remedy


def test_the_printed_script_gives_what_init_would_have_made(database: Endpoints) -> None:
    settings = settings_of(database)
    script = sql_script(settings, Logins())
    done = subprocess.run(
        [psql(), "-X", "-v", "ON_ERROR_STOP=1", "-d", database.superuser_dsn, "-f", "-"],
        input=script, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    # What psql made belongs to the superuser; init, as the relay alone, has only slot and topics left to do.
    without = dataclasses.replace(settings, postgres=dataclasses.replace(settings.postgres, owner_dsn=None))
    assert states(run_init(without)) == {
        "migrations": "there", "dovetail_app may insert into dovetail.outbox": "there",
        f"topic {settings.checkpoint_topic}": "done", f"slot {settings.relay.slot}": "done",
    }  # fmt: skip


def test_an_edited_migration_is_refused(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    with superuser(database) as connection:
        connection.execute("UPDATE dovetail.migration SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(MigrationChanged, match="migration 0001 outbox was applied with checksum edited"):
        run_init(settings)


def test_two_inits_at_once_make_one_database(database: Endpoints) -> None:
    settings = settings_of(database)

    def apply() -> list[str]:
        with session(settings, "owner") as owner:
            return [step.state for step in migrate(owner, change=True)]

    with ThreadPoolExecutor(2) as both:
        found = [future.result() for future in [both.submit(apply), both.submit(apply)]]
    assert sorted(states[-1] for states in found) == ["done", "there"]


def test_a_failed_migration_leaves_nothing_behind(database: Endpoints) -> None:
    settings = settings_of(database)
    with superuser(database) as connection:
        connection.execute("CREATE PUBLICATION dovetail")  # the last statement of the migration will stumble over it
    with pytest.raises(Misconfigured, match="42710"):
        run_init(settings)
    assert scalar(database, "SELECT to_regnamespace('dovetail')") is None


def test_a_slot_without_its_row_is_named_and_left_alone(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    with superuser(database) as connection:
        connection.execute("DELETE FROM dovetail.relay")
    with pytest.raises(SlotWithoutRow, match="nobody knows where it began"):
        run_init(settings)
    assert slots(database, settings) == 1


def test_a_row_without_its_slot_is_a_lost_slot(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    with superuser(database) as connection:
        connection.execute("SELECT pg_drop_replication_slot(%s)", (settings.relay.slot,))
    with pytest.raises(SlotLost) as caught:
        run_init(settings)
    assert caught.value.remedy == "dovetail recover"
    assert slots(database, settings) == 0


def test_a_slot_of_another_database_is_not_taken_over(database: Endpoints) -> None:
    settings = settings_of(database)
    with psycopg.connect(database.on_database("postgres").superuser_dsn, autocommit=True) as elsewhere:
        elsewhere.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (settings.relay.slot,))
        try:
            with pytest.raises(SlotLost, match="belongs to database 'postgres'"):
                run_init(settings)
        finally:
            elsewhere.execute("SELECT pg_drop_replication_slot(%s)", (settings.relay.slot,))


def test_a_slot_of_another_plugin_is_named() -> None:
    facts = {"plugin": "wal2json", "database": "shop", "wal_status": "reserved"}
    assert "uses the plugin 'wal2json', not pgoutput" in str(slot_room.slot_problem(facts, Settings(), "shop"))


def test_a_slot_that_another_relay_has_is_refused(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    other = settings_of(database, relay__slot=settings.relay.slot)
    with pytest.raises(Misconfigured, match=f"belongs to relay '{settings.relay.name}'"):
        run_init(other)


def test_a_slot_whose_row_cannot_be_written_goes_again(database: Endpoints) -> None:
    settings = settings_of(database)
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    with superuser(database) as connection:
        connection.execute("ALTER TABLE dovetail.relay ADD CHECK (epoch > 1)")
    with pytest.raises(Misconfigured, match="23514"):
        run_init(settings)
    assert slots(database, settings) == 0


def test_the_making_of_a_slot_tells_whom_it_waits_for_and_each_row_is_either_in_its_snapshot_or_in_its_stream(
    database: Endpoints,
) -> None:
    settings = settings_of(database)
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    told: list[list[slot_room.Blocker]] = []
    insert = (
        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
        " VALUES (gen_random_uuid(), 'order', %s, 't', '')"
    )

    with superuser(database) as writer, superuser(database) as blocker:
        writer.execute(insert, ("before",))
        blocker.execute("BEGIN")
        blocker.execute(insert, ("open",))
        pid = blocker.info.backend_pid

        def let_go(blockers: list[slot_room.Blocker]) -> None:
            told.append(blockers)
            blocker.execute("COMMIT")

        run_init(settings, on_wait=let_go)
        writer.execute(insert, ("after",))

    assert [blocked.pid for blocked in told[0]] == [pid]
    assert "INSERT" not in told[0][0].line()
    visible = (
        "SELECT array_agg(aggregateid) FROM dovetail.outbox, dovetail.relay WHERE pg_visible_in_snapshot(xid, snapshot)"
    )
    # The transaction that was open ended before the slot's first position: it never streams, so the snapshot has it.
    assert sorted(scalar(database, visible)) == ["before", "open"]
    stream = (
        "SELECT string_agg(data, '') FROM"
        " pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'dovetail')"
    )
    streamed = scalar(database, stream, settings.relay.slot)
    assert [name in streamed for name in (b"before", b"open", b"after")] == [False, False, True]


def test_a_relay_role_that_may_not_replicate_gets_the_statement_to_type(database: Endpoints) -> None:
    settings = settings_of(database)
    with pytest.raises(PermissionMissing) as caught:
        run_init(settings, logins=Logins(relay="app"))
    assert caught.value.remedy.startswith('ALTER ROLE "app" REPLICATION')


def test_a_login_role_that_does_not_exist_is_named(database: Endpoints) -> None:
    with pytest.raises(Misconfigured, match="role 'nobody-here' does not exist"):
        run_init(settings_of(database), logins=Logins(app="nobody-here"))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER PUBLICATION dovetail SET (publish = 'insert, delete')", "it publishes delete as well"),
        ("ALTER PUBLICATION dovetail SET (publish = 'update')", "it does not publish inserts"),
        (
            (
                "ALTER PUBLICATION dovetail SET TABLE dovetail.outbox;"
                " ALTER PUBLICATION dovetail SET (publish_via_partition_root = false)"
            ),
            "publish_via_partition_root is off",
        ),
        ("ALTER PUBLICATION dovetail ADD TABLE dovetail.relay", "dovetail.relay, which is not the outbox"),
        ("ALTER PUBLICATION dovetail DROP TABLE dovetail.outbox", "does not publish dovetail.outbox"),
        ("ALTER PUBLICATION dovetail SET TABLE dovetail.outbox (id, aggregatetype, aggregateid, type)", "hides"),
        ("ALTER PUBLICATION dovetail SET TABLE dovetail.outbox WHERE (aggregatetype = 'a')", "row filter"),
        ("DROP PUBLICATION dovetail; CREATE PUBLICATION dovetail FOR ALL TABLES", "it is FOR ALL TABLES"),
    ],
)
def test_a_publication_of_another_shape_is_refused_in_words(database: Endpoints, statement: str, said: str) -> None:
    settings = settings_of(database)
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    with superuser(database) as connection:
        before = publication_fingerprint(connection, "dovetail")
        connection.execute(statement)  # type: ignore[call-overload]
        assert publication_fingerprint(connection, "dovetail") != before
    with pytest.raises(Misconfigured, match=said) as caught:
        run_init(settings)
    assert caught.value.remedy.startswith('BEGIN; DROP PUBLICATION "dovetail"; CREATE PUBLICATION "dovetail"')
    assert slots(database, settings) == 0


def test_a_publication_that_was_made_again_is_another_although_it_looks_as_before(
    database: Endpoints,
) -> None:
    settings = settings_of(database)
    run_init(settings)
    columns = sql.SQL(", ").join(map(sql.Identifier, reversed(PUBLISHED)))
    with superuser(database) as connection:
        before = publication_fingerprint(connection, "dovetail")
        connection.execute("DROP PUBLICATION dovetail")
        connection.execute(
            sql.SQL(
                "CREATE PUBLICATION dovetail FOR TABLE dovetail.outbox ({})"
                " WITH (publish = 'insert', publish_via_partition_root = true)"
            ).format(columns)
        )
        assert publication_fingerprint(connection, "dovetail") != before


def test_a_publication_that_vanished_under_its_slot_is_not_made_again(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    with superuser(database) as connection:
        connection.execute("DROP PUBLICATION dovetail")
    with pytest.raises(PublicationChanged, match="would be lost"):
        run_init(settings)
    with superuser(database) as connection, pytest.raises(LookupError):
        publication_fingerprint(connection, "dovetail")


def test_a_publication_that_was_never_there_is_made_under_its_configured_name(database: Endpoints) -> None:
    settings = settings_of(database, outbox__publication='od"d Näme')
    assert states(run_init(settings))['publication od"d Näme'] == "done"
    assert {step.state for step in run_init(settings)} == {"there"}


def test_a_table_with_debeziums_layout_is_accepted_as_it_is(database: Endpoints) -> None:
    settings = settings_of(database, outbox__table='"Shop".outbox_event', outbox__publication="shop")
    with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
        owner.execute('CREATE SCHEMA "Shop"; GRANT USAGE ON SCHEMA "Shop" TO relay')
        owner.execute(
            'CREATE TABLE "Shop".outbox_event (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL,'
            " aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb, extra text)"
        )
    run_init(settings)
    with superuser(database) as connection:
        (table,) = read_publication(connection, "shop").tables
    assert (table.schema, table.table) == ("Shop", "outbox_event")
    assert table.columns == ("aggregateid", "aggregatetype", "id", "payload", "type")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE dovetail.outbox RENAME payload TO body", "no column 'payload'"),
        (
            "ALTER TABLE dovetail.outbox ALTER payload TYPE bytea[] USING NULL",
            r"has the type bytea\[\]; allowed: bytea, json, jsonb, text, varchar",
        ),
        ("DROP TABLE dovetail.outbox CASCADE", "dovetail.outbox does not exist"),
    ],
)
def test_an_outbox_that_the_relay_cannot_read_is_refused(database: Endpoints, statement: str, said: str) -> None:
    settings = settings_of(database)
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    with superuser(database) as connection:
        connection.execute("DROP PUBLICATION dovetail")
        connection.execute(statement)  # type: ignore[call-overload]
    with pytest.raises(OutboxAltered, match=said):
        run_init(settings)


def test_a_renamed_column_may_be_mapped(database: Endpoints) -> None:
    settings = settings_of(database, outbox__columns="payload=body")
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
    with superuser(database) as connection:
        connection.execute("ALTER TABLE dovetail.outbox RENAME payload TO body")
    assert states(run_init(settings))["publication dovetail"] == "there"


def test_a_new_route_is_added_to_the_recorded_partition_counts(database: Endpoints) -> None:
    settings = settings_of(database)
    run_init(settings)
    topic = f"orders-{settings.relay.name}"
    environ = database.environment() | {
        "DOVETAIL_RELAY__NAME": settings.relay.name, "DOVETAIL_ROUTES__ORDER__TOPIC": topic,
        "DOVETAIL_ROUTES__ORDER__PARTITIONS": "2",
    }  # fmt: skip
    later = settings_of(database, environ)
    assert states(run_init(later))[f"partition counts of {topic}"] == "done"
    assert {step.state for step in run_init(later)} == {"there"}
    counts = scalar(database, "SELECT partition_counts::text FROM dovetail.relay")
    assert json.loads(counts) == {settings.checkpoint_topic: 1, topic: 2}
