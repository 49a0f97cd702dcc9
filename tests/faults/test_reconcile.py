"""`dovetail reconcile` on real servers: what it finds, what it leaves alone, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.observe.topics import look, topics_of
from dovetail_relay.reconcile.report import TOPIC_COLUMNS
from dovetail_schemas.headers import format_time
from support.pages import ROOT, blocks
from support.prepared import completed
from support.topic import headers, messages
from support.waiting import wait_until
from support.world import PARTITIONS, World, new_world
from support.writers import numbered

PARK = """
INSERT INTO dovetail.parked (relay, epoch, commit_lsn, index, hold_topic, hold_key, reason, message, state, id,
    aggregatetype, aggregateid, type, encoding, headers, created_us)
SELECT %(relay)s, 1, '0/1', 1, %(topic)s, '', 'r', 'm', %(state)s, id, aggregatetype, aggregateid, type, encoding,
    jsonb_send(headers), (extract(epoch FROM created_at) * 1000000)::bigint - 946684800000000
FROM dovetail.outbox WHERE id = %(id)s
"""


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def reconcile(world: World, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    done = completed({**os.environ, **world.environ, **environ}, "reconcile", *arguments)
    assert "Traceback" not in done.stderr
    return done


def answer(world: World, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = reconcile(world, "--output", "json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def write(world: World, count: int) -> list[uuid.UUID]:
    """One transaction per event."""
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        found = []
        for number in range(count):
            found.append(outbox.publish(connection, event({"key": "k", "number": number})))
            connection.commit()
    return found


def settled(world: World) -> None:
    """Until the checkpoint vouches for every row that there is now. More traffic brings it there sooner."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        row = connection.execute("SELECT max(xid::text::bigint) FROM dovetail.outbox").fetchone()
    assert row is not None
    with topics_of(world.settings()) as kafka, world.writers(count=1, pause=0.1):

        def vouched_for() -> bool:
            checkpoint = look(kafka, world.settings()).checkpoint
            return checkpoint is not None and checkpoint.horizon > row[0]

        wait_until(vouched_for, 60, "all is settled")


def produce(world: World, event_id: str, *more: tuple[str, bytes]) -> None:
    """A record such as the relay writes; of an event that nobody wrote, as if it were created now."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        row = connection.execute(
            "SELECT (extract(epoch FROM coalesce((SELECT created_at FROM dovetail.outbox WHERE id = %s), now()))"
            " * 1000000)::bigint", (event_id,),
        ).fetchone()  # fmt: skip
    assert row is not None
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    time = format_time(row[0]).encode()
    producer.produce(world.topic, b"x", b"k", headers=[("id", event_id.encode()), ("time", time), *more])
    assert producer.flush(20) == 0


def published(world: World) -> list[str]:
    found = messages(world.endpoints.bootstrap_servers, world.topic, 1)
    return [headers(message)["id"] for message in found]


def named(found: dict[str, Any], what: str) -> list[str]:
    return [event["id"] for event in found["events"] if event["what"] == what]


# -- what it finds ----------------------------------------------------------------------------------------------------


def test_a_relay_at_work_is_balanced_and_the_rest_is_on_its_way(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        wait_until(lambda: writers.tally.transactions > 50, 20, "fifty transactions")
        code, found = answer(world)
        assert (code, found["balanced"], found["events"]) == (0, True, []), found
        assert found["topics"][0]["outbox"] > 50
    settled(world)
    world.wait_until_published()
    relay.kill()
    write(world, 7)
    code, found = answer(world)
    assert (code, found["topics"][0]["on_its_way"]) == (0, 7)
    (topic,) = found["topics"]
    assert topic["outbox"] == topic["published"] + 7 == sum(hour["outbox"] for hour in found["hours"])
    done = reconcile(world)
    assert done.returncode == 0
    assert done.stdout.split()[:5] == ["TOPIC", "OUTBOX", "PUBLISHED", "MISSING", "TOO_MUCH"]
    assert "balanced:" in done.stderr
    assert "7 of them still on their way" in done.stderr


def test_an_event_that_a_relay_lost_is_named_and_so_is_what_became_of_it(world: World) -> None:
    world.relay("-m", "support.planted", "loses_an_event").wait_streaming()
    written = {str(event) for event in write(world, 150)}
    settled(world)
    (lost,) = written - set(published(world))
    code, found = answer(world)
    assert (code, found["balanced"], named(found, "missing")) == (4, False, [lost])
    assert (found["topics"][0]["missing"], len(found["events"])) == (1, 1)
    done = reconcile(world)
    assert done.returncode == 4
    assert lost in done.stdout
    assert "NOT_BALANCED: 1 missing, of" in done.stderr
    assert f"next: dovetail replay --id {lost} --reason …" in done.stderr
    for state, what in (("parked", "parked"), ("discarded", "discarded"), ("dead_lettered", "dead_lettered")):
        with psycopg.connect(world.endpoints.owner_dsn) as owner:
            owner.execute("DELETE FROM dovetail.parked")
            owner.execute(PARK, {"relay": world.name, "topic": world.topic, "state": state, "id": lost})
        code, found = answer(world)
        assert (code, named(found, what), found["topics"][0]["missing"]) == (0, [lost], 0)
    # A replay fills the gap.
    with psycopg.connect(world.endpoints.owner_dsn) as owner:
        owner.execute("DELETE FROM dovetail.parked")
    produce(world, lost, ("replay", b"1"))
    code, found = answer(world)
    assert (code, found["replays"], found["events"]) == (0, 1, [])
    assert "1 records are replays" in reconcile(world).stderr


def test_what_is_doubled_and_what_is_in_no_table_is_named_and_replays_and_strangers_are_neither(world: World) -> None:
    world.relay().wait_streaming()
    written = [str(event) for event in write(world, 20)]
    settled(world)
    produce(world, written[3], ("replay", b"1"))
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    for given in (None, [("id", b"7")], [("time", b"yesterday"), ("id", str(uuid.uuid4()).encode())], [("id", None)]):
        producer.produce(world.topic, b"x", headers=given)
    assert producer.flush(20) == 0
    code, found = answer(world)
    assert (code, found["events"], found["replays"], found["other_records"]) == (0, [], 1, 4)
    stranger = str(uuid.uuid4())
    produce(world, written[4])
    produce(world, stranger)
    code, found = answer(world)
    assert (code, named(found, "missing")) == (4, [])
    assert (named(found, "doubled"), named(found, "too_much")) == ([written[4]], [stranger])
    assert reconcile(world, "--output", "json", "--topic", world.topic).returncode == 4
    assert reconcile(world, "--since", "1h", "--until", "30m").returncode == 0


def test_what_a_topic_no_longer_holds_is_not_called_missing(world: World) -> None:
    world.relay().wait_streaming()
    written = [str(event) for event in write(world, 10)]
    settled(world)
    assert set(written) <= set(published(world))
    admin = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    everything = [TopicPartition(world.topic, partition, -1) for partition in range(PARTITIONS)]
    for future in admin.delete_records(everything).values():
        future.result()
    code, found = answer(world)
    gone = found["topics"][0]["thrown_away"]
    assert (code, found["topics"][0]["missing"]) == (0, 0)
    assert gone >= 10
    assert f"{gone} events are no longer in their topic" in reconcile(world).stderr


def test_the_page_about_it_is_true(started: World) -> None:
    script = "".join(block.text for block in blocks(ROOT / "docs/how-to/reconcile.md") if block.mark == "run: shell")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, **started.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert script.count("dovetail reconcile") == done.stderr.count("balanced: ") == 3
    page = (ROOT / "docs/how-to/reconcile.md").read_text()
    assert all(f"`{column}`" in page for column in TOPIC_COLUMNS if column != "topic")


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_a_relay_that_never_ran_leaves_nothing_to_compare(world: World) -> None:
    done = reconcile(world)
    assert (done.returncode, done.stdout) == (5, "")
    assert "NOT_STARTED" in done.stderr


def test_a_server_that_cannot_be_reached_ends_with_3(world: World) -> None:
    world.relay().wait_streaming()
    write(world, 1)
    world.wait_until_published()
    for environ in (
        {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        {
            "DOVETAIL_POSTGRES__DSN": "host=127.0.0.1 port=1 dbname=x user=y",
            "DOVETAIL_POSTGRES__OPERATOR_DSN": "host=127.0.0.1 port=1 dbname=x user=y",
        },
    ):
        done = reconcile(world, **environ)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--since", "yesterday"), "'yesterday' is neither a time"),
        (("--until", "2026-13-01"), "'2026-13-01' is neither a time"),
        (("--since", "999999999999d"), "neither a time"),
        (("--since", "1h", "--until", "2h"), "no minute between the two"),
        (("--topic", "no-such-\x1btopic"), "no such topic: no-such-\\x1btopic"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(started: World, words: tuple[str, ...], told: str) -> None:
    done = reconcile(started, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def started(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        made.relay().wait_streaming()
        write(made, 1)
        made.wait_until_published()
        yield made


def test_a_table_of_ones_own_cannot_be_compared(world: World) -> None:
    done = reconcile(world, DOVETAIL_OUTBOX__TABLE="public.outbox")
    assert done.returncode == 5
    assert "NOT_OURS" in done.stderr
