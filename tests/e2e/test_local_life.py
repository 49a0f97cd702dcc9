"""Local stacks live and die: whoever goes, in whatever way, no server process is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner, Result

from dovetail_local.cli import app
from dovetail_local.control import recorded_processes
from dovetail_local.errors import NothingToDo, WrongUsage
from dovetail_local.identity import Identity
from dovetail_local.plan import Layout
from dovetail_local.stack import Stack, temporary_folder
from support.waiting import wait_until

POSTGRES_ONLY = frozenset({"postgres"})
LOCAL = [sys.executable, "-m", "dovetail_local"]
GONE_SECONDS = 20

# Runs a stack in the folder given, tells that it runs, and waits to be killed.
OWNER = """
import os, signal, sys
from pathlib import Path
from dovetail_local.stack import Stack
parts = frozenset(sys.argv[2].split(","))
stack = Stack(Path(sys.argv[1]), temporary=True, durable=False, parts=parts)
stack.up(attached=True)
if "fork" in sys.argv and os.fork() == 0:
    os.close(1)
    signal.pause()
print("up", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _no_servers_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOVETAIL_POSTGRES__DSN", "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS", "DOVETAIL_LOCAL_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for a stack, and stop what still runs there afterwards."""
    place = tmp_path / "stack"
    yield place
    try:
        Stack(place).down(delete=True)
    except NothingToDo:
        return


def processes(folder: Path) -> list[Identity]:
    """Give the supervisor and the servers of a running stack, every backend of PostgreSQL included."""
    found = recorded_processes(Layout(folder))
    assert len(found) > 1
    assert all(identity.alive() for identity in found)
    return found


def wait_until_gone(identities: list[Identity]) -> None:
    wait_until(lambda: not any(one.alive() for one in identities), GONE_SECONDS, "every process of the stack is gone")


@pytest.fixture
def owner(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a way to start another process that owns an attached stack in `folder`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, str(folder), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        if process.stdout is not None:
            process.stdout.close()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def test_two_stacks_run_side_by_side_and_leave_nothing_behind() -> None:
    folders = [temporary_folder(), temporary_folder()]
    stacks = [Stack(folder, durable=False, temporary=True) for folder in folders]
    try:
        endpoints = [stack.up(attached=True) for stack in stacks]
        assert len({one.bootstrap_servers for one in endpoints}) == 2
        for one in endpoints:
            with psycopg.connect(one.app_dsn) as connection:
                assert connection.execute("SELECT current_database()").fetchone() == ("dovetail",)
            assert len(AdminClient({"bootstrap.servers": one.bootstrap_servers}).list_topics(timeout=10).brokers) == 1
        left = [identity for folder in folders for identity in processes(folder)]
    finally:
        for stack in stacks:
            stack.down()
    assert not any(identity.alive() for identity in left)
    assert not any(folder.exists() for folder in folders)


def test_killing_the_parent_leaves_no_process_and_no_folder(
    folder: Path, owner: Callable[..., subprocess.Popen[str]]
) -> None:
    parent = owner("postgres,kafka")
    left = processes(folder)
    parent.kill()
    wait_until_gone(left)
    wait_until(lambda: not folder.exists(), GONE_SECONDS, "the temporary folder is removed")


def test_a_fork_that_outlives_the_parent_does_not_keep_the_servers(
    folder: Path, owner: Callable[..., subprocess.Popen[str]]
) -> None:
    parent = owner("postgres", "fork")
    left = processes(folder)
    parent.kill()
    wait_until_gone(left)


def test_killing_the_supervisor_leaves_no_server_and_the_next_up_finds_the_data(folder: Path) -> None:
    stack = Stack(folder)
    before = stack.up(attached=False)
    with psycopg.connect(before.owner_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    left = processes(folder)
    left[0].signal(signal.SIGKILL)
    wait_until_gone(left)
    after = stack.up(attached=False)
    assert after == before
    with psycopg.connect(after.owner_dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    left = processes(folder)
    stack.down()
    assert not any(identity.alive() for identity in left)
    assert (folder / "stack.json").exists()


def test_ctrl_c_during_up_leaves_no_process_and_no_folder(folder: Path) -> None:
    layout = Layout(folder)
    command = [*LOCAL, "up", "--dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: len(recorded_processes(layout)) > 1, 60, "the first server runs")
        left = recorded_processes(layout)
        os.killpg(process.pid, signal.SIGINT)
        _, words = process.communicate(timeout=GONE_SECONDS)
        assert process.returncode == 130
    assert "Traceback" not in words
    assert not any(identity.alive() for identity in left)
    assert not folder.exists()


def test_ctrl_c_in_the_foreground_stops_the_servers_and_keeps_the_data(folder: Path) -> None:
    command = [*LOCAL, "up", "--foreground", "--dir", str(folder)]
    environment = {**os.environ, "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True, env=environment
    ) as process:
        assert process.stderr is not None
        told = iter(process.stderr.readline, "")
        assert any("stop with Ctrl-C" in line for line in told)
        left = processes(folder)
        os.killpg(process.pid, signal.SIGINT)
        _, words = process.communicate(timeout=GONE_SECONDS)
    assert words == "stopped\n"
    assert process.returncode == 0
    assert not any(identity.alive() for identity in left)
    assert (folder / "stack.json").exists()


def test_the_command_line_brings_up_prints_repeats_and_takes_down(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOVETAIL_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("DOVETAIL_LOCAL_DIR", str(folder))

    def local(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    first, second, printed = local("up"), local("up"), local("env")
    assert (first.exit_code, second.exit_code, printed.exit_code) == (0, 0, 0)
    assert first.stdout == second.stdout == printed.stdout
    assert "export DOVETAIL_POSTGRES__DSN='postgresql://relay:" in first.stdout
    assert "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS is set: using that kafka, starting none" in first.stderr
    states = json.loads(local("status", "--output", "json").stdout)
    assert [(state["name"], state["state"]) for state in states] == [("postgres", "running")]
    Stack(folder).kill_postgres()
    assert local("status").exit_code == 3
    assert local("up").stdout == first.stdout
    assert local("status").exit_code == 0
    assert local("up", "--brokers", "3").exit_code == 2
    assert local("down").exit_code == 0
    again = local("down")
    assert (again.exit_code, again.stdout) == (5, "")
    assert "no stack runs in" in again.stderr
    assert local("down", "--delete").exit_code == 0
    assert not folder.exists()


def test_two_starters_of_one_folder_get_one_stack(folder: Path) -> None:
    environment = {**os.environ, "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    command = [*LOCAL, "up", "--dir", str(folder)]
    starters = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [starter.communicate(timeout=60)[0] for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0]
    assert printed[0] == printed[1] != ""


def test_removing_the_folder_stops_the_servers(folder: Path) -> None:
    Stack(folder, durable=False, parts=POSTGRES_ONLY).up(attached=False)
    left = processes(folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    wait_until_gone(left)


def test_a_folder_with_a_long_name_serves_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / "stack"
    with Stack.attached(deep, durable=False, parts=POSTGRES_ONLY) as endpoints:
        psycopg.connect(endpoints.relay_dsn).close()
    with pytest.raises(NothingToDo):
        Stack(deep).down()
    Stack(deep).down(delete=True)
    assert not deep.exists()


def test_a_stack_refuses_what_its_data_cannot_be(folder: Path) -> None:
    with Stack.attached(folder, durable=False, parts=POSTGRES_ONLY):
        pass
    with pytest.raises(WrongUsage, match="made with PostgreSQL 18, not 16"):
        Stack(folder, postgres_version="16", parts=POSTGRES_ONLY).up(attached=True)
    Stack(folder).down(delete=True)
