"""`dovetail doctor` and `dovetail init` as users run them: processes, exit codes, output."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from dovetail_local.endpoints import Endpoints
from support.installation import environment
from support.prepared import completed
from support.waiting import wait_until

SECONDS = 60
UNBOUNDED = "SELECT setting = '-1' FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"


def dovetail(environ: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DOVETAIL_", "PG"))}
    return completed(clean | environ, *words, timeout=SECONDS)


def findings(environ: dict[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    done = dovetail(environ, "doctor", "--output", "json")
    return done.returncode, {row["check"]: row for row in json.loads(done.stdout)}


@pytest.fixture
def installed(database: Endpoints) -> dict[str, str]:
    """Variables of a relay that `dovetail init` has set up."""
    environ = environment(database, DOVETAIL_ROUTES__ORDER__TOPIC=f"orders-{secrets.token_hex(6)}")
    done = dovetail(environ, "init")
    assert done.returncode == 0, done.stderr
    return environ


@pytest.fixture
def superuser(database: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        yield connection


def test_a_fresh_installation_is_healthy(installed: dict[str, str]) -> None:
    code, found = findings(installed)
    assert code == 0
    assert {row["status"] for row in found.values()} <= {"ok", "warn"}
    assert found["dovetail.slot"]["status"] == found["dovetail.publication"]["status"] == "ok"
    assert found["kafka.transactions"]["status"] == "ok"
    assert all(row["next"] for row in found.values() if row["status"] != "ok")


def test_the_table_has_one_line_per_check_and_the_count_goes_to_stderr(installed: dict[str, str]) -> None:
    done = dovetail(installed, "doctor")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["STATUS", "CHECK", "IS"]
    assert all(line.split()[0] in {"ok", "warn", "fail"} for line in lines[1:])
    assert f"{len(lines) - 1} checks: " in done.stderr


def test_a_database_before_init_gets_told_to_run_it(database: Endpoints) -> None:
    code, found = findings(environment(database))
    assert code == 4
    assert found["dovetail.migrations"]["next"].startswith("dovetail init")
    assert found["postgres.wal_level"]["is"] == "logical"


def test_kafka_that_cannot_be_reached_gives_3_and_the_database_is_still_looked_at(installed: dict[str, str]) -> None:
    code, found = findings(installed | {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert code == 3
    assert found["kafka.connection"]["status"] == "fail"
    assert found["dovetail.slot"]["status"] == "ok"


def test_a_broker_that_refuses_tls_is_told_in_librdkafkas_words(installed: dict[str, str]) -> None:
    code, found = findings(installed | {"DOVETAIL_KAFKA__SECURITY_PROTOCOL": "ssl"})
    assert code == 3
    assert "SSL handshake failed" in found["kafka.connection"]["is"]


def test_a_database_that_cannot_be_reached_gives_3_and_kafka_is_still_looked_at(installed: dict[str, str]) -> None:
    code, found = findings(installed | {"DOVETAIL_POSTGRES__DSN": "host=127.0.0.1 port=1 dbname=x user=y"})
    assert code == 3
    assert found["postgres.connection"]["status"] == "fail"
    assert found["kafka.transactions"]["status"] == "ok"


def test_a_wrong_password_is_told_and_not_shown(installed: dict[str, str]) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(installed["DOVETAIL_POSTGRES__DSN"])
    wrong = psycopg.conninfo.make_conninfo("", **(parts | {"password": "hunter2-wrong"}))
    done = dovetail(installed | {"DOVETAIL_POSTGRES__DSN": wrong}, "doctor", "--output", "json")
    assert done.returncode == 4
    assert "LOGIN_REFUSED" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_a_database_that_does_not_exist_is_named(installed: dict[str, str], database: Endpoints) -> None:
    dsn = database.on_database("no_such_database").relay_dsn
    code, found = findings(installed | {"DOVETAIL_POSTGRES__DSN": dsn})
    assert code == 4
    assert '"no_such_database" does not exist' in found["postgres.connection"]["is"]


def test_a_changed_publication_is_found_with_what_to_type(
    installed: dict[str, str], superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("ALTER PUBLICATION dovetail SET (publish = 'insert, update')")
    code, found = findings(installed)
    assert code == 4
    assert "it publishes update as well" in found["dovetail.publication"]["is"]
    assert "dovetail.publication_fingerprint" not in found
    superuser.execute("ALTER PUBLICATION dovetail DROP TABLE dovetail.outbox")
    superuser.execute(found["dovetail.publication"]["next"].partition("; then ")[0])
    _, found = findings(installed)
    assert found["dovetail.publication"]["status"] == "ok"
    assert found["dovetail.publication_fingerprint"]["status"] == "fail"
    assert "dovetail relay accept" in found["dovetail.publication_fingerprint"]["next"]


def test_a_dropped_slot_is_found(installed: dict[str, str], superuser: psycopg.Connection[Any]) -> None:
    superuser.execute("SELECT pg_drop_replication_slot(%s)", (f"dovetail_{installed['DOVETAIL_RELAY__NAME']}",))
    code, found = findings(installed)
    assert code == 4
    assert found["dovetail.slot"]["next"] == found["dovetail.relay_row"]["next"] == "dovetail recover"


def test_a_role_that_lost_its_group_is_found(database: Endpoints, superuser: psycopg.Connection[Any]) -> None:
    environ = environment(database)
    assert dovetail(environ, "init").returncode == 0
    superuser.execute("REVOKE INSERT ON dovetail.outbox FROM dovetail_app")
    superuser.execute("REVOKE UPDATE ON dovetail.relay FROM dovetail_relay")
    code, found = findings(environ)
    assert code == 4
    assert "lacks INSERT on dovetail.outbox" in found["postgres.app_rights"]["is"]
    assert "lacks UPDATE on dovetail.relay" in found["postgres.relay_rights"]["is"]


def test_a_role_without_replication_gets_the_statement_to_type(installed: dict[str, str], database: Endpoints) -> None:
    environ = installed | {"DOVETAIL_POSTGRES__DSN": database.app_dsn}
    code, found = findings(environ)
    assert code == 4
    assert "PERMISSION_MISSING" in found["postgres.attributes"]["is"]
    assert found["postgres.attributes"]["next"].startswith("ALTER ROLE")


def test_a_superuser_as_the_relay_is_a_warning(installed: dict[str, str], database: Endpoints) -> None:
    code, found = findings(installed | {"DOVETAIL_POSTGRES__DSN": database.superuser_dsn})
    assert code == 0
    assert found["postgres.relay_role"]["status"] == "warn"


def test_a_prepared_transaction_that_is_young_is_no_finding(installed: dict[str, str]) -> None:
    assert findings(installed)[1]["postgres.prepared_transactions"]["is"] == "none is old"


def test_a_checkpoint_topic_that_is_not_compacted_fails_and_a_missing_topic_too(
    installed: dict[str, str], database: Endpoints
) -> None:
    checkpoint = f"dovetail.checkpoint.{installed['DOVETAIL_RELAY__NAME']}"
    client = AdminClient({"bootstrap.servers": database.bootstrap_servers})
    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, checkpoint, incremental_configs=[entry])
    client.incremental_alter_configs([resource])[resource].result()
    gone = installed["DOVETAIL_ROUTES__ORDER__TOPIC"]
    client.delete_topics([gone])[gone].result()

    code, found = findings(installed)
    assert code == 4
    assert found[f"kafka.topic.{checkpoint}.cleanup"]["status"] == "fail"
    assert found[f"kafka.topic.{gone}"]["next"] == "dovetail init"


def test_a_server_that_keeps_wal_without_bound_fails_unless_it_is_accepted(
    installed: dict[str, str], superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '-1'")
    try:
        superuser.execute("SELECT pg_reload_conf()")
        wait_until(lambda: superuser.execute(UNBOUNDED).fetchone() == (True,), 5, "the server has read its settings")
        code, found = findings(installed)
        assert (code, found["postgres.max_slot_wal_keep_size"]["status"]) == (4, "fail")
        assert "ALTER SYSTEM SET max_slot_wal_keep_size" in found["postgres.max_slot_wal_keep_size"]["next"]
        code, found = findings(installed | {"DOVETAIL_POSTGRES__ACCEPT_UNBOUNDED_WAL": "true"})
        assert (code, found["postgres.max_slot_wal_keep_size"]["status"]) == (0, "ok")
        assert "unbounded" in found["postgres.max_slot_wal_keep_size"]["is"]
    finally:
        superuser.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        superuser.execute("SELECT pg_reload_conf()")


def test_doctor_disturbs_nothing(installed: dict[str, str], superuser: psycopg.Connection[Any]) -> None:
    look = "SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT to_jsonb(r) FROM dovetail.relay r)"
    before = superuser.execute(look).fetchone()
    dovetail(installed, "doctor")
    assert superuser.execute(look).fetchone() == before


def test_init_says_each_step_on_stderr_and_a_check_of_an_empty_database_ends_with_4(database: Endpoints) -> None:
    environ = environment(database)
    looked = dovetail(environ, "init", "--check")
    assert looked.returncode == 4
    assert "missing" in looked.stderr
    assert looked.stdout == ""
    made = dovetail(environ, "init", "--output", "json")
    assert made.returncode == 0
    assert {row["state"] for row in json.loads(made.stdout)} <= {"done", "there"}
    again = dovetail(environ, "init")
    assert again.returncode == 0
    assert all("already there" in line for line in again.stderr.splitlines())
    assert dovetail(environ, "init", "--check").returncode == 0


def test_a_property_that_librdkafka_refuses_is_a_setting_to_correct_and_no_bug_to_report(
    installed: dict[str, str],
) -> None:
    # Known to nobody before the first client is made.
    wrong = installed | {"DOVETAIL_KAFKA__NONSENSE_PROPERTY": "x"}
    code, found = findings(wrong)
    assert code == 4
    assert not [row for row in found.values() if "report it" in str(row) or "UNEXPECTED" in str(row)]
    ended = dovetail(wrong | {"DOVETAIL_RELAY__HTTP_PORT": "0"}, "relay", "run")
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        'dovetail: MISCONFIGURED: [kafka]: No such configuration property: "nonsense.property"; next: '
    )
