"""Operations and faults at once: what a release, a discard or a recovery meets, it neither loses nor overtakes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import submit
from support.losses import checkpoint_lost, delete_records
from support.operator import Command, run
from support.relay import RelayProcess
from support.stuck import UNKNOWN, cure, discarded, held_queue, order_of, out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world, read_records
from support.writers import numbered

GO = ("--yes", "--reason", "a test")
FLAWED = ("-m", "support.poisoned")


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def ask(world: World, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def ids(world: World) -> list[str]:
    records = read_records(world.endpoints.bootstrap_servers, world.topic)
    return [dict(record.headers())["id"].decode() for record in records]


def recovered(world: World) -> RelayProcess:
    submit(world.settings(), "recover", {"new_epoch": False}, reason="a test")
    relay = world.relay().wait_streaming()
    wait_until(
        lambda: ask(world, "SELECT state FROM dovetail.command WHERE kind = 'recover'") == [("done",)], 30, "done"
    )
    return relay


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_row_that_is_stuck_for_itself_does_not_go_out_behind_a_release(
    stack: Stack, tmp_path: Path, mode: str
) -> None:
    """Too large, it was taken in without its payload: as a record it would be a tombstone."""
    slow = tmp_path / "slow"
    with new_world(stack, DOVETAIL_OUTBOX__MAX_ROW_BYTES="70000", DOVETAIL_DELIVERY__MODE=mode) as world:
        relay = world.relay(*FLAWED, SLOW=str(slow)).wait_streaming()
        first = write_unencodable(world, "bad")
        wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it is parked")
        cure(world)
        slow.touch()
        release = Command(world, "stuck", "release", "--key", "bad", *GO)
        wait_until(lambda: '"message": "slow"' in relay.log(), 30, "its step is under way")
        received = relay.metric("dovetail_received_lsn")
        ((large,),) = ask(
            world,
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
            " VALUES (gen_random_uuid(), %s, 'bad', 'Numbered', decode(repeat('00', 200000), 'hex'), %s) RETURNING id",
            world.aggregate, UNKNOWN,
        )  # fmt: skip
        wait_until(lambda: relay.metric("dovetail_received_lsn") > received, 20, "the large one is read")
        slow.unlink()
        assert release.end()[0] == 0
        wait_until(lambda: parked(world) == [("bad", "too_large")], 20, "it waits")
        assert ids(world) == [first]
        assert str(large) not in ids(world)


def test_a_recovery_without_a_checkpoint_leaves_a_queue_whole_that_a_logical_message_waits_in(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_OUTBOX__MESSAGES="true") as world:
        relay = world.relay().wait_streaming()
        first = write_unencodable(world, "bad")
        wait_until(lambda: len(parked(world)) == 1, 20, "the first is parked")
        with psycopg.connect(world.endpoints.app_dsn) as connection:
            event = numbered(world.aggregate)({"key": "bad", "number": 2})
            second = str(Outbox(mode="wal").publish(connection, event))
        (third,) = write(world, ("bad", 3))
        wait_until(lambda: len(parked(world)) == 3, 20, "all are parked")
        relay.kill()
        checkpoint_lost(world, None)  # type: ignore[arg-type]
        recovered(world)
        cure(world)
        assert run(world, "stuck", "release", "--all", *GO)["published"] == 3
        assert order_of(world, "bad") == [first, second, third]


def test_a_recovery_counts_what_it_parks_again_apart_from_what_it_publishes(world: World) -> None:
    relay = world.relay().wait_streaming()
    held_queue(world)
    wait_until(lambda: len(out(world)) == 1, 20, "the other key flows")
    relay.kill()
    checkpoint_lost(world, None)  # type: ignore[arg-type]
    write(world, ("good", 2), ("good", 3))
    recovered(world)
    ((outcome, stuck),) = ask(
        world, "SELECT outcome, progress ->> 'stuck' FROM dovetail.command WHERE kind = 'recover'"
    )
    assert outcome == (
        "published 2 missing of 7 rows looked at, in epoch 2; 4 more could not go out or wait behind one: "
        "dovetail stuck list"
    )
    assert stuck == "4"
    assert len(parked(world)) == 4


def test_a_recovery_without_a_checkpoint_leaves_a_queue_whole_that_is_being_discarded_from(world: World) -> None:
    relay = world.relay().wait_streaming()
    first = write_unencodable(world, "bad")
    second, third = write(world, ("bad", 2), ("bad", 3))
    wait_until(lambda: len(parked(world)) == 3, 20, "all are parked")
    relay.kill()
    discarded(world, second)
    killed = world.relay("-m", "dovetail_relay.crash", "checkpoint_produced", "1")
    assert killed.wait_ended() == -signal.SIGKILL
    checkpoint_lost(world, None)  # type: ignore[arg-type]
    recovered(world)
    cure(world)
    run(world, "stuck", "release", "--all", *GO)
    wait_until(lambda: not parked(world), 20, "the queue is empty")
    assert [event for event in order_of(world, "bad") if event != second] == [first, third]
    assert order_of(world, "bad") in ([first, second, third], [first, third])


@pytest.mark.parametrize("on_stuck", ["hold", "skip"])
def test_a_row_that_ends_the_process_is_found_among_those_from_before_the_slot_too(stack: Stack, on_stuck: str) -> None:
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = on_stuck
        world.forget_the_slot()
        write(world, ("a", 1), ("poison", 2), ("b", 3), ("c", 4))
        world.init()
        for _ in range(12):
            relay = world.relay(*FLAWED, POISONED="kill")
            wait_until(lambda: relay.ended or len(out(world)) == 3, 30, "it ends, or it is through")  # noqa: B023
            if not relay.ended:
                break
        assert parked(world) == [("poison", "crash")]
        assert out(world) == [("a", 1), ("b", 3), ("c", 4)]


def test_a_release_that_ends_each_process_is_given_up(world: World) -> None:
    first = world.relay(*FLAWED, POISONED="raise").wait_streaming()
    write(world, ("poison", 1))
    wait_until(lambda: first.has_logged("message_stuck"), 20, "it is parked for good")
    first.kill()
    command = submit(world.settings(), "release", {"upto": 1000}, reason="a test")
    write(world, ("good", 1))
    state = "SELECT state FROM dovetail.command WHERE id = %s"
    ended = 0
    for _ in range(10):
        relay = world.relay(*FLAWED, POISONED="kill")
        wait_until(
            lambda: relay.ended or ask(world, state, command.id) == [("failed",)],  # noqa: B023
            30,
            "it ends, or it gives the command up",
        )
        if not relay.ended:
            break
        ended += 1
    assert ended == 6
    wait_until(lambda: out(world) == [("good", 1)], 20, "the other key flows")
    assert parked(world) == [("poison", "unhandled")]


def test_a_row_that_the_relay_cannot_handle_stays_parked_when_it_is_released_or_replayed(world: World) -> None:
    relay = world.relay(*FLAWED, POISONED="raise").wait_streaming()
    ((poison, _), good) = (write(world, ("poison", 1), ("poison", 2)), write(world, ("good", 1)))
    wait_until(lambda: parked(world) == [("poison", "unhandled")] * 2, 20, "it is parked")
    done = run(world, "stuck", "release", "--all", *GO, code=4)
    assert "still stuck 1" in done["outcome"]
    replayed = run(world, "replay", "--id", good[0], *GO)
    assert replayed["published"] == 1
    assert relay.get("/readyz")[0] == 200
    assert poison not in ids(world)


def test_somebody_who_holds_the_audit_log_holds_up_no_event(world: World) -> None:
    world.relay().wait_streaming()
    with psycopg.connect(world.endpoints.operator_dsn) as holder:
        holder.execute("INSERT INTO dovetail.audit_log (action, target, reason) VALUES ('note', 'x', 'a long lunch')")
        with psycopg.connect(world.endpoints.operator_dsn) as connection:
            connection.execute(
                "INSERT INTO dovetail.command (relay, kind, arguments, reason) VALUES (%s, 'accept', '{}', 'x')",
                (world.name,),
            )
        for number in range(8):
            write(world, ("a", number))
            wait_until(lambda: len(out(world)) == number + 1, 8, "it flows")  # noqa: B023
        holder.rollback()
    wait_until(lambda: ask(world, "SELECT state FROM dovetail.command") == [("failed",)], 20, "and then it is settled")


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("recover", "[1]"),
        ("release", '{"upto": 9, "id": "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057"}'),
        ("release", '{"upto": 9, "since": "2026-W01-1T10:00+00:00"}'),
        ("discard", '{"upto": 9, "until": "2026-01-01T10:00+23:59"}'),
        ("replay", '{"rate": 1' + "0" * 400 + "}"),
    ],
)
def test_a_command_that_was_written_by_hand_and_makes_no_sense_fails_by_name(
    world: World, kind: str, arguments: str
) -> None:
    relay = world.relay().wait_streaming()
    if kind == "recover":
        relay.kill()
        checkpoint_lost(world, None)  # type: ignore[arg-type]
        relay = world.relay().wait_for_log("relay_halted")
    write_unencodable(world, "bad")
    with psycopg.connect(world.endpoints.operator_dsn) as connection:
        connection.execute(
            "INSERT INTO dovetail.command (relay, kind, arguments, reason) VALUES (%s, %s, %s, 'x')",
            (world.name, kind, arguments),
        )
    state = "SELECT state FROM dovetail.command"
    wait_until(lambda: ask(world, state) == [("failed",)], 30, f"it fails; the log:\n{relay.log()[-1500:]}")
    assert not relay.ended


OLD = """
INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, bucket, created_at)
SELECT gen_random_uuid(), %s, 'bad', 'Numbered', '\\x00', %s, day %% 9, to_timestamp(day * 86400 + 60)
FROM (SELECT floor(date_part('epoch', now()))::bigint / 86400 - 4 AS day) AS today RETURNING id, bucket
"""


def test_what_an_operator_discarded_is_remembered_as_long_as_its_row_is_there(stack: Stack) -> None:
    with (
        new_world(stack, DOVETAIL_OUTBOX__RETENTION_DAYS="2") as world,
        psycopg.connect(world.endpoints.owner_dsn) as holder,
    ):
        relay = world.relay().wait_streaming()
        (leaf,) = ask(world, "SELECT (floor(date_part('epoch', now()))::bigint / 86400 - 4) %% 9")[0]
        # As a dump does, or a prepared transaction.
        holder.execute(f"LOCK TABLE dovetail.outbox_{leaf} IN ROW EXCLUSIVE MODE")  # type: ignore[call-overload]
        (bad, _) = ask(world, OLD, world.aggregate, UNKNOWN)[0]
        wait_until(lambda: parked(world) == [("bad", "schema")], 20, "it is parked")
        run(world, "stuck", "discard", "--id", str(bad), *GO)
        ask(world, "UPDATE dovetail.parked SET parked_at = parked_at - interval '4 days'")
        relay.kill()
        relay = world.relay().wait_streaming()
        wait_until(lambda: relay.has_logged("leaf_waits"), 60, "the ring was looked at")
        cure(world)
        relay.kill()
        checkpoint_lost(world, None)  # type: ignore[arg-type]
        recovered(world)
        assert str(bad) not in ids(world)


def test_a_recovery_finds_again_what_was_dated_hours_ahead(world: World) -> None:
    relay = world.relay().wait_streaming()
    write(world, ("a", 1))
    wait_until(lambda: out(world) == [("a", 1)], 20, "it is out")
    (value,) = [record.value() for record in read_records(world.endpoints.bootstrap_servers, world.topic)]
    ask(world, "TRUNCATE dovetail.outbox")
    ((ahead,),) = ask(
        world,
        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, created_at)"
        " VALUES (gen_random_uuid(), %s, 'a', 'Numbered', %s, %s, now() + interval '3 hours') RETURNING id",
        world.aggregate, value[5:], numbered(world.aggregate).fingerprint,
    )  # fmt: skip
    wait_until(lambda: len(ids(world)) == 2, 20, "it is out too")
    (record,) = [
        record for record in read_records(world.endpoints.bootstrap_servers, world.topic)
        if dict(record.headers())["id"].decode() == str(ahead)
    ]  # fmt: skip
    relay.kill()
    delete_records(world)
    # As if it had been published two hours ago.
    producer = Producer({"bootstrap.servers": world.endpoints.bootstrap_servers})
    (now,) = ask(world, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")[0]
    producer.produce(
        world.topic, record.value(), record.key(), partition=record.partition(), headers=record.headers(),
        timestamp=now - 7_200_000,
    )  # fmt: skip
    assert producer.flush(10) == 0
    checkpoint_lost(world, None)  # type: ignore[arg-type]
    recovered(world)
    assert ids(world) == [str(ahead)]


def test_whoever_follows_a_command_whose_relay_has_died_is_told_to_start_one(world: World) -> None:
    world.environ["DOVETAIL_DELIVERY__BATCH_ROWS"] = "1"
    relay = world.relay().wait_streaming()
    queue = held_queue(world)
    cure(world)
    asked = Command(world, "stuck", "release", "--all", "--rate", "0.5", *GO)
    wait_until(lambda: len(parked(world)) < len(queue), 20, "it has begun")
    relay.kill()
    wait_until(lambda: "; next: dovetail relay run" in asked.said(), 30, "it is told")
    world.relay()
    code, out, said = asked.end()
    assert code == 0, out + said
    assert parked(world) == []
