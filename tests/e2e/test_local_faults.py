"""What fault tests rely on: single servers of a stack are killed, stopped, frozen, and come back where they were."""

import psycopg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from dovetail_local.endpoints import Endpoints
from dovetail_local.identity import descendants
from dovetail_local.stack import Stack
from support.waiting import wait_until


def rows(endpoints: Endpoints) -> list[tuple[object, ...]]:
    with psycopg.connect(endpoints.owner_dsn) as connection:
        return connection.execute("SELECT * FROM kept").fetchall()


def test_postgres_comes_back_with_what_was_committed_after_every_kind_of_end(stack: Stack, database: Endpoints) -> None:
    with psycopg.connect(database.owner_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1")
    for end in (stack.kill_postgres, stack.stop_postgres, lambda: stack.stop_postgres("immediate")):
        pid = stack.postgres_pid()
        assert pid is not None
        backends = descendants(pid)
        assert backends
        end()
        assert stack.postgres_pid() is None
        assert not any(backend.alive() for backend in backends)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(database.owner_dsn)
        stack.start_postgres()
        assert rows(database) == [(1,)]


def test_a_killed_broker_comes_back_with_its_topics(stack: Stack) -> None:
    client = AdminClient({"bootstrap.servers": stack.endpoints().bootstrap_servers, "log_level": 0})
    for future in client.create_topics([NewTopic("kept", 1, 1)]).values():
        future.result(timeout=10)
    stack.kill_broker(1)
    assert [state.state for state in stack.status() if state.name == "kafka-1"] == ["exited"]
    stack.start_broker(1)
    assert "kept" in client.list_topics(timeout=10).topics
    for future in client.delete_topics(["kept"]).values():
        future.result(timeout=10)


def test_a_frozen_broker_does_not_answer_until_it_goes_on(stack: Stack) -> None:
    client = AdminClient({"bootstrap.servers": stack.endpoints().bootstrap_servers, "log_level": 0})
    client.list_topics(timeout=10)

    def silent() -> bool:
        try:
            client.list_topics(timeout=0.3)
        except KafkaException:
            return True
        return False

    stack.pause_broker(1)
    try:
        # SIGSTOP is on its way when the call returns: a thread that was about to answer may still do so.
        wait_until(silent, 10, "the broker does not answer")
        assert silent()
    finally:
        stack.resume_broker(1)
    client.list_topics(timeout=10)


def test_the_roles_may_do_what_their_names_say_and_no_more(stack: Stack) -> None:
    with psycopg.connect(stack.endpoints().superuser_dsn) as connection:
        found = connection.execute(
            "SELECT rolname, rolcreaterole, rolreplication, rolsuper OR rolcreatedb OR rolbypassrls FROM pg_roles"
            " WHERE rolname IN ('owner', 'app', 'relay', 'operator') ORDER BY rolname"
        ).fetchall()
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
    assert found == [
        ("app", False, False, False),
        ("operator", False, False, False),
        ("owner", True, False, True),
        ("relay", False, True, False),
    ]
