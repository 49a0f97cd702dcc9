"""PostgreSQL fails over to a standby while the relay works: the relay follows where it may, and says why where not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_schemas.position import Position
from support.durable import DurableCheckpoint
from support.failover import STANDBY_SLOT, Pair, new_pair
from support.prepared import completed
from support.relay import RelayProcess
from support.waiting import wait_until
from support.world import read_records
from support.writers import Writers, numbered

GUC = "synchronized_standby_slots"


@pytest.fixture
def pair(stack: Stack, pytestconfig: pytest.Config) -> Iterator[Pair]:
    if int(pytestconfig.getoption("--postgres-version")) < 17:
        pytest.skip("slots survive a failover from PostgreSQL 17 on")
    with new_pair(stack) as made:
        yield made


def write(pair: Pair, *numbers: int) -> None:
    event, outbox = numbered(pair.world.aggregate), Outbox()
    with psycopg.connect(pair.world.endpoints.app_dsn) as connection:
        for number in numbers:
            outbox.publish(connection, event({"key": "k", "number": number}))
            connection.commit()


def transactions(writers: Writers, count: int) -> None:
    wanted = writers.tally.transactions + count
    wait_until(lambda: writers.tally.transactions >= wanted, 40, f"{count} more transactions are done")


def halted(relay: RelayProcess, name: str) -> None:
    wait_until(lambda: name in relay.get("/readyz")[1], 40, f"{name} is said; the log:\n{relay.log()[-3000:]}")


def run(pair: Pair, *words: str) -> tuple[int, Any]:
    done = completed({**os.environ, **pair.world.environ}, *words, "--output", "json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def doctor(pair: Pair) -> tuple[int, dict[str, dict[str, str]]]:
    code, found = run(pair, "doctor")
    return code, {row["check"]: row for row in found}


def problems(pair: Pair, port: int) -> list[str]:
    code, found = run(pair, "status", "--http-port", str(port))
    assert code == 4
    return [problem["name"] for problem in found["problems"]]


def test_a_failover_under_load_to_a_synchronised_standby_loses_nothing_and_makes_up_nothing(pair: Pair) -> None:
    world = pair.world
    relay = world.relay().wait_streaming()
    pair.start_standby()
    pair.set_on_primary(GUC, STANDBY_SLOT)
    with world.writers(count=3) as writers:
        transactions(writers, 50)
        pair.wait_until_slot_is_ready()
        assert doctor(pair)[1]["postgres.synchronized_standby_slots"]["status"] == "ok"
        transactions(writers, 50)
        pair.fail_over()
        transactions(writers, 50)
    assert relay.process.poll() is None, relay.log()[-2000:]
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    print(f"{writers.tally.unknown} commits with an unknown outcome; {books}")
    assert books.ok, str(books)
    assert books.committed == books.published > 150
    code, found = doctor(pair)
    assert code == 0, found
    assert found["dovetail.progress"]["is"].endswith("the server is on timeline 2")
    assert (found["postgres.primary"]["is"], found["dovetail.slot"]["status"]) == ("a primary", "ok")
    code, status = run(pair, "status", "--http-port", str(relay.port()))
    assert code == 0, status
    assert status["slot"]["active"]
    assert not status["postgres"]["in_recovery"]
    assert status["checkpoint"]["timeline"] == status["postgres"]["timeline"] == 2


def test_a_promoted_server_that_waits_for_a_slot_it_has_not_is_told_by_doctor_and_status(pair: Pair) -> None:
    world = pair.world
    relay = world.relay().wait_streaming()
    # Copied with the server: nobody thinks of it until the events stop.
    pair.start_standby(**{GUC: STANDBY_SLOT})
    pair.set_on_primary(GUC, STANDBY_SLOT)
    write(pair, 1)
    pair.wait_until_slot_is_ready()
    pair.fail_over()
    write(pair, 2)
    wait_until(lambda: relay.log().count('"stream_started"') == 2, 40, "the relay streams from the promoted server")
    code, found = doctor(pair)
    assert code == 4
    assert STANDBY_SLOT in found["postgres.synchronized_standby_slots"]["is"]
    assert f"ALTER SYSTEM SET {GUC}" in found["postgres.synchronized_standby_slots"]["next"]
    assert "STANDBY_AWAITED" in problems(pair, relay.port())
    assert [event.number for event in world.read_topic()] == [1]
    pair.standby(f"ALTER SYSTEM SET {GUC} = ''")
    pair.standby("SELECT pg_reload_conf()")
    world.wait_until_published()
    assert world.books().ok


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_standby_that_lacks_what_was_published_is_diverged(pair: Pair, mode: str) -> None:
    world = pair.world
    relay = world.relay(DOVETAIL_DELIVERY__MODE=mode).wait_streaming()
    pair.start_standby()
    write(pair, 1)
    pair.wait_until_slot_is_ready()
    found = doctor(pair)[1]["postgres.synchronized_standby_slots"]
    assert found["status"] == "warn"
    assert f"ALTER SYSTEM SET {GUC} = '{STANDBY_SLOT}'" in found["next"]
    pair.cut_replication()
    write(pair, 2)
    wait_until(lambda: 2 in [event.number for event in world.read_topic()], 30, "it is published")
    pair.fail_over()
    write(pair, 3)
    halted(relay, "DIVERGED")
    assert [event.number for event in world.read_topic()] == [1, 2]
    assert problems(pair, relay.port()) == ["DIVERGED", "TIMELINE_CHANGED"]
    # Where no process answers, the servers alone tell that much.
    assert "TIMELINE_CHANGED" in problems(pair, 0)
    code, checks = doctor(pair)
    assert code == 4
    assert "DIVERGED" in checks["dovetail.progress"]["is"]
    assert checks["dovetail.progress"]["next"] == "dovetail recover --new-epoch"


def test_at_least_once_covers_what_is_out_with_a_checkpoint_when_its_server_dies(pair: Pair) -> None:
    # Else a promoted server that lacks it would be taken for the whole truth.
    world = pair.world
    relay = world.relay(DOVETAIL_DELIVERY__MODE="at_least_once").wait_streaming()
    with world.writers(count=3) as writers:
        transactions(writers, 60)
        pair.kill_primary()
        relay.wait_for_log("relay_restarting")
    servers = world.endpoints.bootstrap_servers
    positions = [dict(record.headers())["position"].decode() for record in read_records(servers, world.topic)]
    newest = max(Position.parse(position).commit_lsn for position in positions)
    assert DurableCheckpoint(servers, world.settings().checkpoint_topic).covers(newest + 1)


def test_a_standby_without_the_slot_is_slot_lost(pair: Pair) -> None:
    relay = pair.world.relay().wait_streaming()
    pair.start_standby(sync_replication_slots="off")
    write(pair, 1)
    pair.world.wait_until_published()
    pair.fail_over()
    halted(relay, "SLOT_LOST")
    code, found = doctor(pair)
    assert code == 4
    assert found["dovetail.slot"]["status"] == "fail"
    assert "SLOT_LOST" in problems(pair, relay.port())


def test_a_slot_that_was_still_being_copied_is_slot_lost(pair: Pair) -> None:
    # With its relay away the slot never advances, and the standby's copy stays temporary: not usable, says the manual.
    pair.start_standby()
    copied = "SELECT temporary FROM pg_replication_slots WHERE synced"
    wait_until(lambda: pair.standby(copied), 60, "the copy has begun")
    if pair.standby(copied) == [(False,)]:
        pytest.skip("this server had the slot ready at once")
    pair.fail_over()
    halted(pair.world.relay(), "SLOT_LOST")
