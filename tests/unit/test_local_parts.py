"""The local stack without servers: endpoints, identities, accounts, the cache, versions."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail_local import identity
from dovetail_local.accounts import Account
from dovetail_local.cache import cache_folder, own_folder
from dovetail_local.endpoints import Endpoints
from dovetail_local.errors import LocalError, WrongUsage
from dovetail_local.identity import Identity, descendants, identify, kill_tree
from dovetail_local.plan import Plan, Server, read_plan, write_plan
from dovetail_local.ports import free_ports, is_free
from dovetail_local.software import check_versions
from support.waiting import wait_until

ENDPOINTS = Endpoints(
    owner_dsn="postgresql://owner:secret1@127.0.0.1:5/dovetail",
    relay_dsn="postgresql://relay:secret2@127.0.0.1:5/dovetail",
    operator_dsn="postgresql://operator:secret3@127.0.0.1:5/dovetail",
    app_dsn="postgresql://app:secret4@127.0.0.1:5/dovetail",
    superuser_dsn="postgresql://postgres:secret5@127.0.0.1:5/dovetail",
    bootstrap_servers="127.0.0.1:6",
)
SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
# A parent that starts a child, says so, and waits.
PARENT = """
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])
print(child.pid, flush=True)
signal.pause()
"""
FAMILY = [sys.executable, "-c", PARENT]


def test_the_environment_names_every_role_but_the_superuser() -> None:
    assert ENDPOINTS.environment() == {
        "DOVETAIL_POSTGRES__DSN": ENDPOINTS.relay_dsn,
        "DOVETAIL_POSTGRES__OWNER_DSN": ENDPOINTS.owner_dsn,
        "DOVETAIL_POSTGRES__OPERATOR_DSN": ENDPOINTS.operator_dsn,
        "DOVETAIL_POSTGRES__APP_DSN": ENDPOINTS.app_dsn,
        "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:6",
    }


def test_no_password_is_in_the_text_form_of_endpoints() -> None:
    assert "secret" not in repr(ENDPOINTS)
    assert "secret" not in str(ENDPOINTS)


def test_endpoints_move_to_another_database_with_every_dsn() -> None:
    moved = ENDPOINTS.on_database("other")
    dsns = [moved.owner_dsn, moved.relay_dsn, moved.operator_dsn, moved.app_dsn, moved.superuser_dsn]
    assert all(dsn.endswith("@127.0.0.1:5/other") for dsn in dsns)
    assert moved.bootstrap_servers == ENDPOINTS.bootstrap_servers


def test_a_process_with_another_start_time_is_not_signalled() -> None:
    with subprocess.Popen(SLEEPER) as process:
        try:
            assert not Identity(process.pid, "1").signal(signal.SIGKILL)
            assert process.poll() is None
        finally:
            process.kill()


def test_a_process_that_ended_and_waits_to_be_reaped_is_not_alive() -> None:
    with subprocess.Popen(SLEEPER) as process:
        found = identify(process.pid)
        assert found is not None
        process.kill()
        wait_until(lambda: not found.alive(), 10, "the zombie counts as dead")
        assert process.returncode is None


def test_killing_a_tree_kills_the_children_too() -> None:
    with subprocess.Popen(FAMILY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        root = identify(parent.pid)
        assert child is not None
        assert root is not None
        assert descendants(parent.pid) == [child]
        assert kill_tree(root) == [child, root]
        wait_until(lambda: not child.alive() and not root.alive(), 10, "both are dead")


def test_processes_are_told_apart_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_HAS_PROC", False)
    with subprocess.Popen(FAMILY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        root = identify(parent.pid)
        assert child is not None
        assert root is not None
        assert root.alive()
        assert descendants(parent.pid) == [child]
        kill_tree(root)
        wait_until(lambda: not child.alive() and not root.alive(), 10, "both are dead")


def test_the_watchdog_kills_its_charges_when_its_pipe_ends() -> None:
    with subprocess.Popen(SLEEPER) as charge:
        found = identify(charge.pid)
        assert found is not None
        watchdog = [sys.executable, "-m", "dovetail_local.watchdog"]
        subprocess.run(watchdog, input=f'[]\n[[{found.pid}, "{found.started}"]]\n', text=True, check=True)
        wait_until(lambda: not found.alive(), 10, "the charge is dead")


def test_free_ports_are_different_and_below_the_range_of_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(20_000 <= port < 32_000 and is_free(port) for port in ports)


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_the_cache_goes_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "dovetail"


def test_without_a_usable_home_the_cache_is_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = cache_folder()
    assert found == tmp_path / f"dovetail-cache-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700


def test_programs_are_never_run_from_a_folder_that_others_can_write(tmp_path: Path) -> None:
    open_to_all = tmp_path / "shared"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(LocalError, match="not made by this user alone"):
        own_folder(open_to_all, 0o755)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(LocalError, match="not made by this user alone"):
        own_folder(link, 0o755)


def test_a_stranger_cannot_pass_a_private_folder(tmp_path: Path) -> None:
    stranger = Account(uid=65_533, gid=65_533)
    tmp_path.chmod(0o700)
    assert not stranger.can_pass(tmp_path)
    assert Account(tmp_path.stat().st_uid, 65_533).can_pass(Path("/"))


@pytest.mark.parametrize("version", ["14", "19", "16.10", "", "18; rm", "latest"])
def test_a_postgres_version_that_cannot_be_is_refused_with_what_can(version: str) -> None:
    with pytest.raises(WrongUsage, match=r"15, 16, 17, 18 .*--postgres-version 18"):
        check_versions(version, "4.1.1")


@pytest.mark.parametrize("version", ["2.8.0", "3.6.0", "4", "4.1", "latest"])
def test_a_kafka_version_that_cannot_be_is_refused_with_what_can(version: str) -> None:
    with pytest.raises(WrongUsage, match=r"from 3\.9\.0 on .*--kafka-version 4\.1\.1"):
        check_versions("18", version)


def test_a_plan_is_read_as_it_was_written_and_is_private(tmp_path: Path) -> None:
    server = Server("one", 1, ["true"], {"A": "b"}, "log", "/", {"stop": 15}, 9)
    plan = Plan([server], temporary=True, elsewhere=["/nowhere"])
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o600
