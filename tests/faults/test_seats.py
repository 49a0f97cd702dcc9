"""One leader, one seat beside it, and as many others as there may be, who are ready and hold nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.relay import RelayProcess
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_RELAY__LEASE_SECONDS="2") as made:
        yield made


def role(relay: RelayProcess) -> str | None:
    status, body = relay.get("/readyz")
    return str(json.loads(body)["role"]) if status == 200 else None


def connections(world: World) -> int:
    with psycopg.connect(world.endpoints.superuser_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s",
            ("dovetail-relay-%",),
        ).fetchone()
    assert row is not None
    return int(row[0])


def kafka_threads(relay: RelayProcess) -> int:
    """How many threads of a Kafka client the process has."""
    names = [comm.read_text() for comm in Path(f"/proc/{relay.process.pid}/task").glob("*/comm")]
    return sum(name.startswith("rdk:") for name in names)


def test_of_fifty_standbys_one_is_seated_and_the_others_hold_nothing(world: World) -> None:
    leader = world.relay().wait_streaming()
    others = [world.relay() for _ in range(50)]
    wait_until(lambda: all(role(relay) == "standby" for relay in others), 90, "all are ready")
    seated = [relay for relay in others if relay.has_logged("standing_by")]
    assert len(seated) == 1
    wait_until(
        lambda: connections(world) == 3, 10, f"two of the leader, one of the seat; there are {connections(world)}"
    )
    assert [relay for relay in [leader, *others] if kafka_threads(relay)] == [leader, *seated]
    with world.writers() as writers:
        leader.signal(signal.SIGKILL)
        seated[0].wait_streaming()
        # Who has no seat asks for one again after 20 to 40 seconds.
        wait_until(lambda: sum(relay.has_logged("standing_by") for relay in others) == 2, 60, "another takes the seat")
        before = writers.tally.transactions
        wait_until(lambda: writers.tally.transactions >= before + 10, 20, "something is written")
    wait_until(lambda: connections(world) == 3, 10, f"three again; there are {connections(world)}")
    world.wait_until_published()
    assert world.books(writers.tally.rolled_back_ids).ok


def test_a_third_relay_is_ready_and_holds_no_connection(world: World) -> None:
    leader = world.relay().wait_streaming()
    standby = world.relay().wait_for_log("standing_by")
    wait_until(lambda: connections(world) == 3, 10, "lock session and stream of the leader, lock session of the other")
    third = world.relay()
    wait_until(lambda: role(third) == "standby", 20, "the third is ready")
    assert [line["message"] for line in third.events() if line["event"] == "no_seat"] == [
        "another relay leads and one stands by; asks again every half a minute or so"
    ]
    wait_until(lambda: connections(world) == 3, 10, f"the third holds none; there are {connections(world)}")
    assert third.terminate() == 0
    assert standby.terminate() == 0
    assert leader.terminate() == 0
