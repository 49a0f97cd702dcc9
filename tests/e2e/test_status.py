"""`dovetail status` on real servers, with a real relay beside it."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import dovetail
from dovetail.psycopg import Inbox, Outbox, register
from dovetail_local.stack import Stack
from support.prepared import completed
from support.waiting import wait_until
from support.world import World, new_world

DEAD = "127.0.0.1:1"


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


@dataclass
class Answer:
    """What one call of the command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def status(world: World, *arguments: str, **environ: str) -> Answer:
    done = completed({**os.environ, **world.environ, **environ}, "status", *arguments)
    assert "Traceback" not in done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)


def publish(world: World, key: str = "k") -> uuid.UUID:
    @dovetail.event("Paid", aggregate=world.aggregate, key="key")
    @dataclass
    class Paid:
        key: str

    with psycopg.connect(world.endpoints.app_dsn) as connection:
        with connection.transaction():
            register(connection, Paid)
        with connection.transaction():
            return Outbox().publish(connection, Paid(key))


def consume(world: World, event: dict[str, Any], consumer: str) -> None:
    """Take the event into an inbox, as a consumer that read it from its place would."""
    from confluent_kafka import Consumer, TopicPartition

    kafka = Consumer(
        {"bootstrap.servers": world.endpoints.bootstrap_servers, "group.id": "x", "enable.auto.commit": False}
    )
    try:
        kafka.assign([TopicPartition(event["topic"], event["partition"], event["offset"])])
        message = kafka.poll(20)
        assert message is not None
        with psycopg.connect(world.endpoints.app_dsn) as connection, connection.transaction():
            with Inbox(consumer).receive(connection, message) as delivery:
                assert delivery.fresh
    finally:
        kafka.close()


def test_a_working_relay_is_well_and_everything_about_it_is_shown(world: World) -> None:
    relay = world.relay().wait_streaming()
    publish(world)
    world_is_caught_up(world, relay.port())
    # The relay's role sees its own sessions; the operator's role needs pg_read_all_stats for that.
    table = status(world, "--http-port", str(relay.port()), DOVETAIL_POSTGRES__OPERATOR_DSN=world.endpoints.relay_dsn)
    assert table.code == 0, table.err
    assert f"dovetail-relay-{world.name}" in table.out
    assert "last heard of" in table.out
    assert f"{world.name} on database" in table.out
    assert "is ready as leader" in table.out
    assert table.err == ""
    answer = status(world, "--output", "json", "--http-port", str(relay.port())).json
    assert answer["ok"] is True
    assert answer["leader"]["application_name"] == f"dovetail-relay-{world.name}"
    assert answer["slot"]["active"] is True
    assert answer["slot"]["wal_status"] == "reserved"
    assert answer["checkpoint"]["seq"] >= 1
    assert answer["checkpoint"]["age_seconds"] < 120
    assert answer["lag"]["events"] == 0
    assert answer["problems"] == []
    relay.kill()


def world_is_caught_up(world: World, port: int) -> None:
    def caught_up() -> bool:
        answer = status(world, "--output", "json", "--http-port", str(port)).json
        return bool(answer["checkpoint"] and answer["lag"]["events"] == 0 and answer["slot"]["active"])

    wait_until(caught_up, 60, "status says that nothing is behind")


def test_looking_writes_nothing_and_leaves_no_session(world: World) -> None:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        sessions = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        before = connection.execute(sessions).fetchone()
        assert status(world).out
        wait_until(lambda: connection.execute(sessions).fetchone() == before, 10, "the session of status has ended")


def test_nobody_leads_is_a_finding_with_the_next_command(world: World) -> None:
    event = publish(world)
    answer = status(world)
    assert answer.code == 4
    assert "nobody leads; next: dovetail relay run" in answer.out
    assert "NOBODY_LEADS" in answer.err
    # What was written since is counted, as an upper bound.
    lag = status(world, "--output", "json").json["lag"]
    assert lag["events"] >= 1
    assert lag["at_most"] is True
    assert lag["source"] == "outbox"
    where = status(world, str(event), "--output", "json")
    assert where.code == 0
    assert where.json["state"] == "written"
    assert where.json["published"] is None


def test_lag_beyond_the_limit_is_a_finding(world: World) -> None:
    publish(world)
    assert "LAGGING" in status(world, "--max-lag-seconds", "0").err


def test_a_named_halt_is_told_with_its_next_command(stack: Stack) -> None:
    with new_world(stack) as world:
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            connection.execute("ALTER PUBLICATION dovetail SET (publish = 'insert, update')")
        relay = world.relay().wait_for_log("relay_halted")
        answer = status(world, "--http-port", str(relay.port()))
        assert answer.code == 4
        assert "PUBLICATION_CHANGED: the relay has halted; next: dovetail doctor" in answer.err
        assert "NOBODY_LEADS" not in answer.err
        assert "is not ready: PUBLICATION_CHANGED" in answer.out


def test_a_frozen_leader_is_a_finding(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_RELAY__LEASE_SECONDS="2") as world:
        relay = world.relay().wait_streaming()
        port = relay.port()
        relay.signal(signal.SIGSTOP)
        role = {"DOVETAIL_POSTGRES__OPERATOR_DSN": world.endpoints.relay_dsn}
        wait_until(
            lambda: "LEADER_SILENT" in status(world, "--http-port", str(port), **role).err, 30, "its silence is noticed"
        )


def test_an_event_is_followed_from_row_to_record_to_inbox(world: World) -> None:
    relay = world.relay().wait_streaming()
    event = publish(world, "a key \x1b[31m")
    wait_until(
        lambda: status(world, str(event), "--output", "json").json["state"] == "published", 60, "the event is out"
    )
    published = status(world, str(event), "--output", "json").json["published"]
    assert published["topic"] == world.topic
    assert published["position"].startswith("1/")
    consume(world, published, "shipping")
    answer = status(world, str(event))
    assert answer.code == 0
    assert f"{event}: consumed" in answer.out
    assert "shipping at " in answer.out
    assert "\x1b" not in answer.out
    whole = status(world, str(event), "--output", "jsonl").json
    assert whole["written"]["type"] == "Paid"
    assert whole["written"]["xid"] > 0
    assert [taken["consumer"] for taken in whole["consumed"]] == ["shipping"]
    relay.kill()


def test_an_event_is_found_by_its_id_when_its_row_is_gone(world: World) -> None:
    relay = world.relay().wait_streaming()
    event = publish(world)
    wait_until(
        lambda: status(world, str(event), "--output", "json").json["state"] == "published", 60, "the event is out"
    )
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        connection.execute("DELETE FROM dovetail.outbox WHERE id = %s", (event,))
    found = status(world, str(event), "--output", "json")
    assert found.code == 0
    assert found.json["state"] == "published"
    assert found.json["written"] is None
    relay.kill()


def test_an_unknown_event_and_what_is_no_id_are_told_apart(world: World) -> None:
    unknown = status(world, str(uuid.uuid4()))
    assert (unknown.code, unknown.out) == (5, "")
    assert "UNKNOWN_EVENT" in unknown.err
    broken = status(world, "not-an-id\x1b[2J")
    assert (broken.code, broken.out) == (2, "")
    assert "is not a UUID" in broken.err
    assert "\x1b" not in broken.err


def test_without_kafka_the_side_of_postgresql_is_still_shown(world: World) -> None:
    answer = status(world, DOVETAIL_KAFKA__BOOTSTRAP_SERVERS=DEAD)
    assert answer.code == 3
    assert "SERVER_UNREACHABLE: Kafka" in answer.err
    assert "reserved" in answer.out
    whole = status(world, "--output", "json", DOVETAIL_KAFKA__BOOTSTRAP_SERVERS=DEAD).json
    assert whole["checkpoint"] is None
    assert whole["slot"]["wal_status"] == "reserved"
    assert list(whole["unreachable"]) == ["kafka"]


def test_without_postgresql_the_last_known_is_still_shown(world: World) -> None:
    world.relay().wait_streaming().kill()
    nowhere = f"postgresql://u:secret-word@{DEAD}/d"
    answer = status(world, DOVETAIL_POSTGRES__OPERATOR_DSN=nowhere)
    assert answer.code == 3
    assert "SERVER_UNREACHABLE: PostgreSQL" in answer.err
    assert "seq " in answer.out
    assert "secret-word" not in answer.out + answer.err
    whole = status(world, "--output", "json", DOVETAIL_POSTGRES__OPERATOR_DSN=nowhere).json
    assert whole["postgres"] is None
    assert whole["checkpoint"]["seq"] >= 1


def test_a_database_without_dovetail_says_init(database: Any, world: World) -> None:
    answer = status(world, **database.environment())
    assert answer.code == 4
    assert "next: dovetail init" in answer.err
    assert status(world, str(uuid.uuid4()), **database.environment()).code == 5
