"""`dovetail replay`: what was published goes out once more, each event once, whatever dies in between."""

from __future__ import annotations

import os
import pty
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dovetail.psycopg import Inbox
from dovetail_local.stack import Stack
from support.operator import Command, audited, dovetail, run, run_page
from support.stuck import UNKNOWN, write, write_unencodable
from support.topic import headers
from support.waiting import wait_until
from support.world import World, new_world, read_records
from support.writers import numbered

GO = ("--yes", "--reason", "a test")


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    """One relay for all tests that do not kill it; each has keys of its own."""
    with new_world(stack) as made:
        made.relay().wait_streaming()
        yield made


def key() -> str:
    return secrets.token_hex(4)


def published(world: World, *events: tuple[str, int]) -> list[str]:
    """Written in one transaction, and in the topic; their ids."""
    found = write(world, *events)
    wait_until(lambda: set(found) <= {headers(record)["id"] for record in records(world)}, 20, "they are published")
    return found


def records(world: World, topic: str | None = None) -> list[Message]:
    return read_records(world.endpoints.bootstrap_servers, topic or world.topic)


def replayed(world: World, command: int, topic: str | None = None) -> list[str]:
    """The ids that one command published, partition by partition."""
    found = [headers(record) for record in records(world, topic)]
    return [each["id"] for each in found if each.get("replay") == str(command)]


def made_topic(world: World, **config: str) -> str:
    """A topic that events may go to by the template of the outbox."""
    name = f"outbox.event.other-{secrets.token_hex(4)}"
    client = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    client.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(10)
    wait_until(lambda: name in client.list_topics(timeout=5).topics, 10, "the topic is there")
    return name


def test_events_are_replayed_by_id_under_their_ids_with_a_header_and_no_inbox_takes_them_twice(world: World) -> None:
    own = key()
    first, second, third = published(world, (own, 1), (own, 2), (own, 3))
    done = run(world, "replay", "--id", first, "--id", third, *GO)
    assert (done["state"], done["published"]) == ("done", 2)
    assert replayed(world, done["command"]) == [first, third]
    inbox = Inbox(consumer=f"test-{own}", types=[numbered(world.aggregate)])
    taken = []
    with psycopg.connect(world.endpoints.app_dsn, autocommit=True) as connection:
        for record in records(world):
            if record.key() == own.encode():
                with connection.transaction(), inbox.receive(connection, record) as delivery:
                    taken.append((str(delivery.id), delivery.fresh, delivery.event["number"]))
    assert taken == [
        (first, True, 1), (second, True, 2), (third, True, 3), (first, False, 1), (third, False, 3)
    ]  # fmt: skip
    assert audited(world)[-2:] == [("replay.asked", "a test"), ("replay.done", "a test")]


def test_a_key_is_replayed_in_its_order_and_a_limit_takes_the_first(world: World) -> None:
    own, other = key(), key()
    events = published(world, *[(name, number) for number in range(5) for name in (own, other)])
    done = run(world, "replay", "--key", own, *GO)
    assert replayed(world, done["command"]) == events[::2]
    done = run(world, "replay", "--key", own, "--limit", "2", *GO)
    assert replayed(world, done["command"]) == events[:3:2]


def test_a_dry_run_counts_names_the_first_and_the_last_and_publishes_nothing(world: World) -> None:
    own = key()
    events = published(world, *[(own, number) for number in range(6)])
    before = len(records(world))
    plan = run(world, "replay", "--key", own, "--rate", "2", "--dry-run")
    assert (plan["events"], plan["first"], plan["last"], plan["seconds"]) == (6, events[0], events[-1], 3.0)
    assert plan["topics"] == {world.topic: 6}
    assert plan["ids"] == events
    assert len(records(world)) == before
    said = run(world, "replay", "--key", own, "--reason", "no yes", code=2)
    assert "--yes" in said
    assert "events  6" in said


def test_a_type_and_a_time_choose_together(world: World) -> None:
    own = key()
    (early,) = published(world, (own, 1))
    between = datetime.now(UTC).isoformat()
    (late,) = published(world, (own, 2))

    def chosen(*options: str) -> Any:
        return run(world, "replay", "--key", own, "--type", "Numbered", "--dry-run", *options)["ids"]

    assert chosen("--since", between) == [late]
    assert chosen("--until", between) == [early]
    assert chosen("--since", "1h") == [early, late]
    assert run(world, "replay", "--key", own, "--since", "1h", *GO)["published"] == 2
    assert "NOT_KEPT" in run(world, "replay", "--type", "Nobodys", *GO, code=5)


def test_a_range_of_the_log_is_found_in_the_topics_and_a_replayed_record_does_not_stand_in_it(world: World) -> None:
    own = key()
    published(world, (own, 1))
    middle = published(world, (own, 2), (own, 3))
    published(world, (own, 4))
    stood = {headers(record)["id"]: headers(record)["position"].split("/")[1] for record in records(world)}
    lsn = f"{stood[middle[0]][:8]}/{stood[middle[0]][8:]}"
    done = run(world, "replay", "--lsn", f"{lsn}..{lsn}", *GO)
    assert replayed(world, done["command"]) == middle
    assert run(world, "replay", "--lsn", f"{lsn}..{lsn}", "--dry-run")["ids"] == middle
    said = run(world, "replay", "--lsn", "0/0..0/1", *GO, code=5)
    assert "NOT_KEPT: the outbox holds no event that was published from 0/0..0/1 in epoch 1" in said
    assert "next: dovetail replay --since … --until …" in said
    for wrong in ("x", "0/2..0/1", "0/1.."):
        assert "is no range" in run(world, "replay", "--lsn", wrong, *GO, code=2)


def test_a_range_of_the_log_says_what_it_left_out_of_another_epoch(world: World) -> None:
    (event_id,) = published(world, (key(), 1))
    stood = next(headers(record)["position"] for record in records(world) if headers(record)["id"] == event_id)
    _, at, _ = stood.split("/")
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    of_before = [("id", str(uuid4()).encode()), ("position", f"7/{at}/0".encode())]
    producer.produce(world.topic, b"x", b"k", headers=of_before)
    assert producer.flush(20) == 0
    lsn = f"{at[:8]}/{at[8:]}"
    code, out, said = dovetail(world, "replay", "--lsn", f"{lsn}..{lsn}", "--dry-run")
    assert (code, out.count(event_id)) == (0, 2)
    assert "1 of epoch 7" in said
    assert "by --since and --until" in said


def test_another_topic_takes_the_events_where_the_relay_may_send_there(world: World) -> None:
    own = key()
    events = published(world, (own, 1), (own, 2))
    other = made_topic(world)
    done = run(world, "replay", "--key", own, "--to-topic", other, *GO)
    assert replayed(world, done["command"], other) == events
    assert replayed(world, done["command"]) == []
    nowhere = run(world, "replay", "--key", own, "--to-topic", "outbox.event.nowhere", *GO, code=2)
    assert "is not there" in nowhere
    assert "allow-list" in run(world, "replay", "--key", own, "--to-topic", "private", *GO, code=2)


def test_a_topic_that_the_relay_forbids_fails_in_one_line_whatever_the_operator_is_told(world: World) -> None:
    own = key()
    published(world, (own, 1))
    client = AdminClient({"bootstrap.servers": world.endpoints.bootstrap_servers})
    private = f"private-{own}"
    client.create_topics([NewTopic(private, 1, 1)])[private].result(10)
    command = ("replay", "--key", own, "--to-topic", private, *GO)
    settings = {"DOVETAIL_KAFKA__ALLOWED_TOPICS": f"{world.topic},{private}"}
    run(world, *command, code=1, **settings)
    assert records(world, private) == []
    assert audited(world)[-1] == ("replay.failed", "a test")


def test_a_compacted_topic_and_events_that_no_inbox_knows_are_refused_unless_forced(world: World) -> None:
    own = key()
    (event_id,) = published(world, (own, 1))
    compacted = made_topic(world, **{"cleanup.policy": "compact"})
    command = ("replay", "--id", event_id, "--to-topic", compacted, *GO)
    said = run(world, *command, code=1)
    assert "REPLAY_REFUSED" in said
    assert "cleanup.policy=compact" in said
    assert said.count("\n") == 1
    done = run(world, *command, "--force")
    assert replayed(world, done["command"], compacted) == [event_id]
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        # A ring that could not be emptied in time still has it.
        connection.execute(
            "INSERT INTO dovetail.outbox"
            " (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, created_at)"
            " SELECT gen_random_uuid(), aggregatetype, %s, type, payload, schema_fingerprint, now() - interval '8 days'"
            " FROM dovetail.outbox WHERE id = %s",
            (f"old-{own}", event_id),
        )
    assert "7 days" in run(world, "replay", "--key", f"old-{own}", *GO, code=1)
    assert run(world, "replay", "--key", f"old-{own}", *GO, "--force")["published"] == 1


def test_what_is_not_in_the_outbox_cannot_be_replayed_and_says_why(world: World) -> None:
    (event_id,) = published(world, (key(), 1))
    nobody = "00000000-0000-4000-8000-000000000001"
    assert "NOT_KEPT" in run(world, "replay", "--id", nobody, *GO, code=5)
    assert run(world, "replay", "--id", nobody, "--id", event_id, *GO)["published"] == 1
    said = run(world, "replay", "--id", event_id, *GO, code=2, DOVETAIL_OUTBOX__TABLE="public.orders_outbox")
    assert "cannot be replayed" in said
    assert said.count("\n") == 1
    assert "say which ones" in run(world, "replay", *GO, code=2)
    assert "--reason" in run(world, "replay", "--id", event_id, "--yes", code=2)
    assert "NOTHING_UNDER_WAY" in run(world, "replay", "--follow", code=5)


def test_an_event_that_waits_as_stuck_is_not_replayed_past_its_queue(world: World) -> None:
    own = key()
    event_id = write_unencodable(world, own)
    wait_until(lambda: run(world, "stuck", "list"), 20, "it is parked")
    done = run(world, "replay", "--id", event_id, *GO)
    assert done["state"] == "done"
    assert "published 0 again; 1 were gone" in done["outcome"]


def test_an_event_that_could_not_go_out_says_why_and_what_to_type(world: World) -> None:
    event_id = write_unencodable(world, key())
    wait_until(lambda: event_id in {row["id"] for row in run(world, "stuck", "list")}, 20, "it is parked")
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        # As if it had been lost: the parking does not answer for it any longer.
        connection.execute("DELETE FROM dovetail.parked WHERE id = %s", (event_id,))
    code, out, said = dovetail(world, "replay", "--id", event_id, *GO)
    assert code == 4
    assert f"1 could not go out; the first of them: schema {UNKNOWN.hex()}" in out
    assert "COULD_NOT_GO_OUT: 1 of the events; next: take away the cause" in said


def test_interrupted_it_pauses_between_two_steps_and_goes_on_with_follow(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="1") as world:
        world.relay().wait_streaming()
        events = write(world, *[("a", number) for number in range(600)])
        asked = Command(world, "replay", "--key", "a", *GO)
        with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:

            def state() -> tuple[str, int]:
                found = connection.execute(
                    "SELECT state, coalesce((progress ->> 'after')::int, 0) FROM dovetail.command"
                ).fetchall()
                return found[0] if found else ("none", 0)

            wait_until(lambda: state()[1] >= 5, 30, "it is under way")
            asked.interrupt()
            ended, _, said = asked.end()
            wait_until(lambda: state()[0] == "paused", 20, "it is paused")
            assert state()[1] < 600
        assert ended == 130
        assert "asked to pause; next: the same command with --follow" in said
        seen = dovetail(world, "status")[1]
        assert "(replay) of operator, asked for " in seen
        assert "paused; it goes on only when told to, and others wait for it; next: dovetail replay --follow" in seen
        done = run(world, "replay", "--follow")
        assert (done["state"], done["published"]) == ("done", 600)
        assert replayed(world, done["command"]) == events
        actions = [
            ("replay.asked", "a test"), ("replay.pause", "interrupted"), ("replay.run", None), ("replay.done", "a test")
        ]  # fmt: skip
        assert audited(world) == actions


def test_what_is_not_published_yet_goes_out_before_its_replay(stack: Stack) -> None:
    with new_world(stack) as world:
        world.relay().wait_streaming().terminate()
        (event,) = write(world, ("a", 1))
        asked = Command(world, "replay", "--id", event, *GO)
        with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
            wait_until(lambda: connection.execute("SELECT FROM dovetail.command").rowcount == 1, 20, "it is asked for")
        world.relay().wait_streaming()
        assert asked.end()[0] == 0
        assert [headers(record).get("replay") is None for record in records(world)] == [True, False]


@pytest.mark.parametrize("step", ["begin", "half", "produced", "checkpoint_flushed", "committed", "confirmed"])
def test_each_event_is_replayed_once_though_the_relay_is_killed_in_the_middle(stack: Stack, step: str) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="5") as world:
        first = world.relay().wait_streaming()
        events = published(world, *[("a", number) for number in range(20)])
        first.terminate()
        asked = Command(world, "replay", "--key", "a", *GO)
        with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
            commands = "SELECT id FROM dovetail.command"
            wait_until(lambda: connection.execute(commands).rowcount == 1, 20, "it is asked for")
            row = connection.execute(commands).fetchone()
        killed = world.relay("-m", "dovetail_relay.crash", step, "2")
        assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
        world.relay().wait_streaming()
        assert asked.end()[0] == 0
        assert row is not None
        assert replayed(world, row[0]) == events
        assert set(Counter(headers(record)["id"] for record in records(world)).values()) == {2}


def test_a_step_is_bounded_in_bytes_and_leaves_nothing_out(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_BYTES="65536") as world:
        world.relay().wait_streaming()
        events = published(world, *[("k" * 20, number) for number in range(9)])
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            # As large as no event of the writers is; what they say is not looked at.
            connection.execute("UPDATE dovetail.outbox SET payload = payload || decode(repeat('00', 40000), 'hex')")
        done = run(world, "replay", "--key", "k" * 20, *GO)
        assert done["published"] == 9
        assert done["step"] >= 4
        assert replayed(world, done["command"]) == events


def test_on_a_terminal_a_bar_shows_how_far_it_is(world: World) -> None:
    own = key()
    published(world, *[(own, number) for number in range(8)])
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dovetail_relay", "replay", "--key", own, "--rate", "8", *GO],
        env={**os.environ, **world.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower, text=True,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while chunk := _read(leader):
            shown += chunk
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(leader)
    assert process.returncode == 0
    assert b"8/8" in shown
    assert "published" in out
    assert "\x1b" not in out


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # What Linux says once the other end is closed.
        return b""


def test_the_page_about_replay_works_as_it_stands(world: World) -> None:
    own = key()
    events = published(world, (own, 1), (own, 2))
    other = made_topic(world)
    environ = {"EVENT_ID": events[0], "KEY": own, "OTHER": other}
    printed = run_page(world, "docs/how-to/replay.md", **environ)
    assert events[0] in printed
    assert len(records(world, other)) == 2
