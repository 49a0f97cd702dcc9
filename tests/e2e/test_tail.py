"""`dovetail tail` on real servers, with a real relay beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

import dovetail
from dovetail.psycopg import Outbox, register
from dovetail_local.stack import Stack
from support.waiting import wait_until
from support.world import World, new_world

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        made.relay().wait_streaming()
        yield made


def command(world: World, *arguments: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    words = [sys.executable, "-m", "dovetail_relay", "tail", *arguments]
    return words, {**os.environ, **world.environ, "PYTHONUNBUFFERED": "1", **environ}


def tail(world: World, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    words, env = command(world, *arguments, **environ)
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert "Traceback" not in done.stderr
    return done


def publish(world: World, *notes: str) -> list[str]:
    @dovetail.event("Noted", aggregate=world.aggregate, key="key")
    @dataclass
    class Noted:
        key: str
        note: str
        at: datetime
        blob: bytes
        amount: Annotated[Decimal, dovetail.Decimal(9, 2)]

    with psycopg.connect(world.endpoints.app_dsn) as connection:
        with connection.transaction():
            register(connection, Noted)
        with connection.transaction():
            return [
                str(Outbox().publish(connection, Noted("one", note, AT, b"\xff", Decimal("1.50")))) for note in notes
            ]


def raw(world: World, value: bytes | None, **more: Any) -> None:
    """A record that no relay wrote."""
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    producer.produce(world.topic, value, **more)
    assert producer.flush(20) == 0


def test_events_are_shown_decoded_as_they_come_and_ctrl_c_ends_well(world: World) -> None:
    words, env = command(world, "--output", "jsonl")
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "following" in process.stderr.readline()
        ids = publish(world, "first", "second \x1b[2J")
        shown = [json.loads(process.stdout.readline()) for _ in ids]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert [event["id"] for event in shown] == ids
    assert [event["payload"]["note"] for event in shown] == ["first", "second \x1b[2J"]
    assert shown[0]["payload"] | {"note": ""} == {
        "key": "one", "note": "", "at": "2026-01-31T12:00:00Z", "blob": "0xff", "amount": "1.50",
    }  # fmt: skip
    assert shown[0]["type"] == "Noted"
    assert shown[0]["key"] == "one"
    assert shown[0]["topic"] == world.topic


def test_a_line_carries_place_type_key_id_and_payload_and_no_escape(world: World) -> None:
    (event,) = publish(world, "red \x1b[31m")
    done = wait_for(world, event)
    (line,) = [line for line in done.splitlines() if event in line]
    assert f"{world.topic}[" in line
    assert "Noted" in line
    assert '"note": "red \\u001b[31m"' in line
    assert "\x1b" not in done


def wait_for(world: World, event: str) -> str:
    """The table from the start, once it holds the event."""
    outs: list[str] = []

    def there() -> bool:
        outs.append(tail(world, "--from-start", "--timeout", "2").stdout)
        return event in outs[-1]

    wait_until(there, 60, f"tail shows {event}")
    return outs[-1]


def test_max_ends_it_and_a_timeout_before_max_is_exit_5(world: World) -> None:
    publish(world, "a", "b", "c")
    done = tail(world, "--from-start", "--max", "2", "--output", "json")
    assert done.returncode == 0
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    short = tail(world, "--max", "5", "--timeout", "0.5")
    assert (short.returncode, short.stdout) == (5, "")
    assert "0 of 5 events" in short.stderr


def test_what_cannot_be_decoded_shows_the_reason_and_the_rest_goes_on(world: World) -> None:
    raw(world, b"not a frame", key=b"\xff", headers=[("id", b"bad-1")])
    raw(world, b"\x00\x00\x00\x00\x01\x02", headers=[("id", b"bad-2")])
    raw(world, None, headers=[("id", b"bad-3")])
    (event,) = publish(world, "after")
    wait_for(world, event)
    done = tail(world, "--from-start", "--timeout", "2", "--output", "jsonl")
    assert done.returncode == 0
    problems = {found["id"]: found.get("problem", "") for found in map(json.loads, done.stdout.splitlines())}
    assert "a frame begins with 0x00" in problems["bad-1"]
    assert "no schema has the id 1" in problems["bad-2"]
    assert "tombstone" in problems["bad-3"]
    assert problems[event] == ""


def test_what_is_not_committed_is_not_shown(world: World) -> None:
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers, "transactional.id": world.name})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(world.topic, b"phantom", headers=[("id", b"aborted-1")])
    assert producer.flush(20) == 0
    producer.abort_transaction(30)
    (event,) = publish(world, "behind the aborted one")
    assert "aborted-1" not in wait_for(world, event)


def test_no_group_is_left_behind(world: World) -> None:
    tail(world, "--from-start", "--timeout", "1")
    # Kept: a client that is collected takes its unanswered requests with it.
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    groups = admin.list_consumer_groups().result(20)
    assert not [group.group_id for group in groups.valid if group.group_id.startswith("dovetail.look")]


def test_schemas_can_come_from_a_registry(world: World) -> None:
    (event,) = publish(world, "by registry")
    wait_for(world, event)
    nowhere = {"DOVETAIL_POSTGRES__OPERATOR_DSN": "postgresql://u:p@127.0.0.1:1/d"}
    registry = f"http://127.0.0.1:{world.relays[0].port()}"
    done = tail(world, "--from-start", "--timeout", "2", "--output", "jsonl", "--registry", registry, **nowhere)
    found = {line["id"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert found[event]["payload"]["note"] == "by registry"
    # Without either, the event still shows, with the reason instead of its payload.
    done = tail(world, "--from-start", "--timeout", "2", "--output", "jsonl", **nowhere)
    found = {line["id"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert "could not be read" in found[event]["problem"]


def test_a_registry_that_talks_nonsense_is_a_reason_and_no_crash(world: World) -> None:
    class Silent(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    def nonsense(_environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/html")])
        return [b"<html>"]

    (event,) = publish(world, "nonsense")
    wait_for(world, event)
    with make_server("127.0.0.1", 0, nonsense, handler_class=Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = tail(world, "--from-start", "--timeout", "2", "--registry", url)
        server.shutdown()
    assert done.returncode == 0
    assert "the registry's answer cannot be read" in done.stdout


def test_an_unknown_topic_is_an_error_of_usage_that_names_the_others(world: World) -> None:
    done = tail(world, "no.such.topic", "--timeout", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert world.topic in done.stderr


def test_without_kafka_it_ends_with_exit_3(world: World) -> None:
    done = tail(world, "--max", "1", DOVETAIL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "SERVER_UNREACHABLE: Kafka" in done.stderr
