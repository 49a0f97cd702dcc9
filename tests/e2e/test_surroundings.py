"""A relay in odd surroundings: a port that is taken, a clock that is wrong, a disk that takes nothing, a server set up
for something else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack, temporary_folder
from dovetail_relay.setup.checks import examine
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.migrate import migrate
from dovetail_relay.setup.problems import WalLevel
from dovetail_relay.setup.slot import ensure_slot
from support.installation import settings_of
from support.servers import fresh_database
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import numbered

RUN = "from dovetail_relay.cli import main; sys.exit(main(['relay', 'run']))"


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def write(world: World, *numbers: int) -> None:
    event, outbox = numbered(world.aggregate), Outbox()
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        outbox.publish_many(connection, [event({"key": "k", "number": number}) for number in numbers])


def works(world: World) -> None:
    write(world, 1, 2, 3)
    wait_until(lambda: [event.number for event in world.read_topic()] == [1, 2, 3], 20, "three events are out")


def test_a_port_that_is_taken_ends_the_start_in_one_line_with_what_to_type(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        relay = world.relay(DOVETAIL_RELAY__HTTP_PORT=str(port))
        assert relay.wait_ended(15) == 1
    (line,) = (line for line in relay.log().splitlines() if not line.startswith("{"))
    assert line.startswith(
        f"dovetail: MISCONFIGURED: 127.0.0.1 port {port} for /livez, /readyz and /metrics is taken; "
    )
    assert line.endswith("next: DOVETAIL_RELAY__HTTP_PORT=0 dovetail relay run")


@pytest.mark.parametrize("years", [-2, 2])
def test_a_clock_that_is_two_years_off_changes_nothing(world: World, years: int) -> None:
    off = years * 365 * 86_400
    clock = (
        "import sys, time; now, now_ns = time.time, time.time_ns; "
        f"time.time = lambda: now() + {off}; time.time_ns = lambda: now_ns() + {off} * 10**9; "
    )
    relay = world.relay("-c", clock + RUN).wait_streaming()
    believed = datetime.fromisoformat(str(relay.events()[0]["ts"])) - datetime.now(UTC)
    assert abs(believed.total_seconds() - off) < 600
    works(world)
    assert relay.terminate() == 0


def test_a_relay_that_can_write_no_file_and_has_neither_home_nor_tmp_works(world: World) -> None:
    # The log goes through a pipe; to a file of its own the process can write nothing at all.
    nothing_to_write = (
        "import os, resource, subprocess, sys; "
        "log = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=sys.stderr); os.dup2(log.stdin.fileno(), 2); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "os.environ.pop('HOME', None); os.environ['TMPDIR'] = '/nonexistent'; os.chdir('/'); "
    )
    world.relay("-c", nothing_to_write + RUN).wait_streaming()
    works(world)


@pytest.fixture
def replica_level() -> Iterator[Endpoints]:
    """A server whose write-ahead log is for physical replicas only."""
    servers = Stack(temporary_folder(), durable=False, temporary=True, parts=frozenset({"postgres"}))
    servers.up(attached=True)
    try:
        with psycopg.connect(servers.endpoints().superuser_dsn, autocommit=True) as superuser:
            superuser.execute("ALTER SYSTEM SET wal_level = 'replica'")
        servers.stop_postgres("fast")
        servers.start_postgres()
        with fresh_database(servers) as database:
            yield database
    finally:
        servers.down()


def test_a_server_without_logical_wal_is_told_with_the_statement_and_the_restart(replica_level: Endpoints) -> None:
    settings = settings_of(replica_level, kafka__bootstrap_servers="localhost:1")
    (found,) = (found for found in examine(settings) if found.check == "postgres.wal_level")
    assert found.line().startswith("replica; ")
    assert found.remedy.startswith("ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL")
    with session(settings, "owner") as owner:
        list(migrate(owner, change=True))
        with pytest.raises(WalLevel, match="wal_level is 'replica', logical is needed") as raised:
            list(ensure_slot(owner, settings, {}, change=True, on_wait=lambda _blockers: None))
    assert raised.value.line().endswith("next: ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL")
