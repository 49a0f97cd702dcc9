"""How a relay starts, stops, waits for its servers and survives them. These tests break servers of their own."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.checker import first_occurrences, lost, out_of_order, phantom
from support.relay import RelayProcess
from support.servers import own_servers
from support.stuck import write_each
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """Servers that nobody else uses."""
    with own_servers() as servers:
        yield servers


@pytest.fixture
def world(own_stack: Stack) -> Iterator[World]:
    with new_world(own_stack) as made:
        yield made


def balanced(world: World, rolled_back: list[str], *, at_least: int = 1) -> None:
    world.wait_until_published()
    books = world.books(rolled_back)
    assert books.ok, str(books)
    assert books.committed == books.published >= at_least


def transactions(writers: object, count: int) -> None:
    """Until the writers have done `count` more."""
    tally = writers.tally  # type: ignore[attr-defined]
    wanted = tally.transactions + count
    wait_until(lambda: tally.transactions >= wanted, 30, f"{count} more transactions are done")


def sql(world: World, statement: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def paused_broker(stack: Stack) -> Iterator[None]:
    stack.pause_broker(1)
    try:
        yield
    finally:
        stack.resume_broker(1)


def terminated_quickly(relay: RelayProcess) -> None:
    started = time.monotonic()
    assert relay.terminate() == 0, relay.log()[-2000:]
    assert time.monotonic() - started < 5
    assert "Traceback" not in relay.log()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_sigterm_under_load_frees_the_slot_and_nothing_is_lost_or_doubled(world: World) -> None:
    with world.writers(count=3) as writers:
        for _ in range(3):
            relay = world.relay().wait_streaming()
            transactions(writers, 20)
            terminated_quickly(relay)
            assert not world.slot_is_active()
            assert relay.has_logged("relay_stopped")
        world.relay().wait_streaming()
    balanced(world, writers.tally.rolled_back_ids, at_least=60)


def test_sigterm_while_kafka_has_never_answered_ends_the_relay(world: World, own_stack: Stack) -> None:
    with paused_broker(own_stack):
        relay = world.relay().wait_for_log("lead_taken")
        terminated_quickly(relay)


def test_sigterm_while_a_batch_waits_for_kafka_ends_the_relay(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    world.wait_until_published()
    with paused_broker(own_stack):
        write_each(world, 2, 3)
        wait_until(lambda: relay.metric("dovetail_relay_lag_events") > 0, 10, "the relay holds events")
        terminated_quickly(relay)
        assert not world.slot_is_active()
    world.relay()
    balanced(world, [], at_least=3)


# -- the first start --------------------------------------------------------------------------------------------------


def test_the_first_start_publishes_what_was_written_before_the_slot_in_order(world: World) -> None:
    world.forget_the_slot()
    for number in range(1, 21):
        for key in "abc":
            write_each(world, number, key=key)
    world.init()
    for key in "abc":
        write_each(world, 21, key=key)
    world.relay(DOVETAIL_DELIVERY__BATCH_ROWS="7").wait_streaming()
    balanced(world, [], at_least=63)


@pytest.mark.parametrize(("step", "nth"), [("committed", 1), ("committed", 3), ("checkpoint_flushed", 4)])
def test_a_first_start_killed_in_the_middle_goes_on_where_it_was(world: World, step: str, nth: int) -> None:
    world.forget_the_slot()
    write_each(world, *range(1, 41))
    world.init()
    write_each(world, 41)
    environ = {"DOVETAIL_DELIVERY__BATCH_ROWS": "10"}
    killed = world.relay("-m", "dovetail_relay.crash", step, str(nth), **environ)
    assert killed.wait_ended() == -9, killed.log()[-2000:]
    world.relay(**environ).wait_streaming()
    balanced(world, [], at_least=41)


def test_transactions_that_are_open_while_the_slot_is_made_are_published_once(world: World) -> None:
    with world.writers(count=3) as writers:
        transactions(writers, 20)
        world.forget_the_slot()
        transactions(writers, 20)
        world.init()
        world.relay(DOVETAIL_DELIVERY__BATCH_ROWS="5").wait_streaming()
        transactions(writers, 20)
    balanced(world, writers.tally.rolled_back_ids, at_least=60)


def test_sigterm_in_the_middle_of_the_first_start_ends_the_relay_though_kafka_is_silent(
    world: World, own_stack: Stack
) -> None:
    world.forget_the_slot()
    write_each(world, *range(1, 21))
    world.init()
    relay = world.relay("-m", "support.stopped_at", "begin", "2", DOVETAIL_DELIVERY__BATCH_ROWS="5")
    # Stopped by itself in the middle, so that Kafka can be frozen before the second batch goes out.
    wait_until(lambda: state_of(relay) == "T", 20, "the relay has come to its second batch")
    with paused_broker(own_stack):
        relay.signal(18)
        terminated_quickly(relay)
    world.relay(DOVETAIL_DELIVERY__BATCH_ROWS="5").wait_streaming()
    balanced(world, [], at_least=20)


def state_of(relay: RelayProcess) -> str:
    with Path(f"/proc/{relay.process.pid}/stat").open() as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


# -- what cannot be reached -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "code"),
    [
        ("postgresql://relay:not-the-password@{host}:{port}/{database}", 1),
        ("postgresql://relay:not-the-password@{host}:{port}/no_such_database", 1),
        ("postgresql://nobody:not-the-password@{host}:{port}/{database}", 1),
    ],
)
def test_a_login_that_is_refused_ends_the_first_start_with_one_line(world: World, dsn: str, code: int) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(world.endpoints.relay_dsn)
    wrong = dsn.format(host=parts["host"], port=parts["port"], database=parts["dbname"])
    relay = world.relay(DOVETAIL_POSTGRES__DSN=wrong)
    assert relay.wait_ended(15) == code, relay.log()[-2000:]
    assert "not-the-password" not in relay.log()
    assert "Traceback" not in relay.log()
    assert len([line for line in relay.log().splitlines() if not line.startswith("{")]) <= 1


def test_kafka_that_is_away_at_the_start_is_waited_for(world: World, own_stack: Stack) -> None:
    write_each(world, 1, 2)
    own_stack.kill_broker(1)
    try:
        relay = world.relay()
        wait_until(lambda: "kafka" in relay.get("/readyz")[1], 20, "/readyz says that Kafka is away")
        status, body = relay.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "kafka unreachable")
        assert relay.get("/livez")[0] == 200
    finally:
        own_stack.start_broker(1)
    relay.wait_streaming(40)
    wait_until(lambda: relay.get("/readyz")[0] == 200, 10, "ready")
    balanced(world, [], at_least=2)


def test_a_fast_shutdown_of_postgresql_is_not_held_up_by_a_silent_kafka(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    world.wait_until_published()
    for waits_for_kafka_lost in (False, True):
        with paused_broker(own_stack):
            write_each(world, 2 + 2 * waits_for_kafka_lost, 3 + 2 * waits_for_kafka_lost)
            if waits_for_kafka_lost:
                relay.wait_for_log("kafka_lost", 30)
                wait_until(lambda: not world.slot_is_active(), 5, "the stream is closed")
                assert relay.get("/livez")[0] == 200
                assert relay.get("/readyz")[0] == 503
            started = time.monotonic()
            own_stack.stop_postgres("fast")
            took = time.monotonic() - started
            own_stack.start_postgres()
            assert took < 5
        balanced(world, [], at_least=3)
        wait_until(lambda: relay.get("/readyz")[0] == 200, 30, "ready again")


def test_a_slot_advanced_while_the_relay_waits_for_kafka_is_a_gap(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    world.wait_until_published()
    with paused_broker(own_stack):
        write_each(world, 2)
        relay.wait_for_log("kafka_lost", 30)
        wait_until(lambda: not world.slot_is_active(), 5, "the stream is closed")
        write_each(world, 3)
        sql(world, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", world.settings().relay.slot)
    write_each(world, 4)
    wait_until(lambda: "GAP" in relay.get("/readyz")[1], 40, f"GAP is said; the log:\n{relay.log()[-1500:]}")
    assert 4 not in [event.number for event in world.read_topic()]


# -- servers that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["immediate", "fast", "kill"])
def test_postgresql_that_goes_away_and_comes_back_costs_nothing(world: World, own_stack: Stack, way: str) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        transactions(writers, 30)
        if way == "kill":
            own_stack.kill_postgres()
        else:
            own_stack.stop_postgres(way)  # type: ignore[arg-type]
        own_stack.start_postgres()
        transactions(writers, 30)
    assert relay.process.poll() is None, relay.log()[-2000:]
    balanced(world, writers.tally.rolled_back_ids, at_least=60)


def test_a_walsender_that_is_terminated_costs_nothing(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        for _ in range(3):
            transactions(writers, 15)
            wait_until(world.slot_is_active, 10, "the relay streams")
            sql(
                world,
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                world.settings().relay.slot,
            )
    assert relay.process.poll() is None
    balanced(world, writers.tally.rolled_back_ids, at_least=45)


def test_a_terminated_lock_session_costs_nothing(world: World) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        for _ in range(2):
            transactions(writers, 15)
            sql(
                world,
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                " WHERE locktype = 'advisory' AND datname = current_database()",
            )
    assert relay.process.poll() is None
    balanced(world, writers.tally.rolled_back_ids, at_least=30)


def test_a_broker_killed_under_load_costs_nothing(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    with world.writers(count=2) as writers:
        transactions(writers, 30)
        own_stack.kill_broker(1)
        transactions(writers, 30)
        own_stack.start_broker(1)
        transactions(writers, 30)
    assert relay.process.poll() is None, relay.log()[-2000:]
    balanced(world, writers.tally.rolled_back_ids, at_least=90)


def test_an_invalidated_slot_is_slot_lost(world: World, own_stack: Stack) -> None:
    relay = world.relay().wait_streaming()
    write_each(world, 1)
    world.wait_until_published()
    assert relay.terminate() == 0
    sql(world, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        sql(world, "SELECT pg_reload_conf()")
        for _ in range(3):
            sql(world, "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))")
            sql(world, "SELECT pg_switch_wal()")
        sql(world, "CHECKPOINT")
        wait_until(
            lambda: sql(world, "SELECT wal_status FROM pg_replication_slots") == [("lost",)], 20, "the slot is lost"
        )
        relay = world.relay()
        wait_until(lambda: "SLOT_LOST" in relay.get("/readyz")[1], 20, f"SLOT_LOST; the log:\n{relay.log()[-1500:]}")
    finally:
        sql(world, "ALTER SYSTEM RESET max_slot_wal_keep_size")
        sql(world, "SELECT pg_reload_conf()")


# -- at least once ----------------------------------------------------------------------------------------------------

AT_LEAST_ONCE = {"DOVETAIL_DELIVERY__MODE": "at_least_once"}


def nothing_lost_and_first_occurrences_in_order(world: World, rolled_back: list[str]) -> int:
    """How many events were repeated."""
    table = world.table()
    wait_until(lambda: not lost(table, world.read_topic()), 40, "nothing is lost")
    topic = world.read_topic()
    assert not phantom(table, topic)
    assert not {event.event_id for event in topic} & set(rolled_back)
    assert not out_of_order(first_occurrences(topic))
    return len(topic) - len(table)


def test_at_least_once_survives_kills_and_a_switch_of_modes(world: World) -> None:
    with world.writers(count=2) as writers:
        for step, mode in (("begin", "at_least_once"), ("produced", "at_least_once"), ("committed", "exactly_once")):
            killed = world.relay("-m", "dovetail_relay.crash", step, "9", DOVETAIL_DELIVERY__MODE=mode)
            wait_until(lambda relay=killed: relay.process.poll() is not None, 40, f"killed at {step}")
            assert killed.wait_ended() == -9, killed.log()[-2000:]
        world.relay(**AT_LEAST_ONCE).wait_streaming()
        transactions(writers, 30)
    nothing_lost_and_first_occurrences_in_order(world, writers.tally.rolled_back_ids)


def test_at_least_once_stopped_in_order_repeats_nothing(world: World) -> None:
    with world.writers(count=2) as writers:
        for mode in ("at_least_once", "at_least_once", "exactly_once"):
            relay = world.relay(DOVETAIL_DELIVERY__MODE=mode).wait_streaming()
            transactions(writers, 20)
            terminated_quickly(relay)
        world.relay().wait_streaming()
    assert nothing_lost_and_first_occurrences_in_order(world, writers.tally.rolled_back_ids) == 0
