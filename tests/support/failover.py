"""A PostgreSQL that can fail over: a primary, and a physical standby that is promoted when the primary is gone."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dovetail_local.accounts import passable_folder, server_account
from dovetail_local.endpoints import Endpoints
from dovetail_local.ports import LOOPBACK, free_ports
from dovetail_local.software import postgres_binaries
from dovetail_local.stack import Stack, temporary_folder
from support.waiting import wait_until
from support.world import World

STANDBY_SLOT = "standby1"


class Pair:
    """`world` has DSNs that name both servers: everybody in it follows the failover."""

    def __init__(self, primary: Stack, standby_port: int, data: Path, world: World, binaries: Path) -> None:
        self._primary = primary
        self._data = data
        self._binaries = binaries
        self._server: subprocess.Popen[bytes] | None = None
        self.standby_port = standby_port
        self.world = world

    def start_standby(self, **settings: str) -> None:
        """Copy the primary and let the copy follow it; `settings` go on top of what synchronises slots."""
        parts = conninfo_to_dict(self._primary.endpoints().superuser_dsn)
        database = conninfo_to_dict(self.world.endpoints.owner_dsn)["dbname"]
        self.primary("SELECT pg_create_physical_replication_slot(%s, true)", STANDBY_SLOT)
        subprocess.run(
            [self._binaries / "bin/pg_basebackup", "-D", self._data, "-d", self._primary.endpoints().superuser_dsn,
             "--slot", STANDBY_SLOT, "--checkpoint", "fast", "-X", "stream", "--no-sync"],
            check=True, capture_output=True, timeout=60, **_as_server(self._data.parent),
        )  # fmt: skip
        source = f"host={LOOPBACK} port={parts['port']} user={parts['user']} password={parts['password']}"
        settings = {
            "port": str(self.standby_port),
            "primary_conninfo": f"{source} dbname={database}",
            "primary_slot_name": STANDBY_SLOT,
            "sync_replication_slots": "on",
            "hot_standby_feedback": "on",
            **settings,
        }
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.write("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        (self._data / "standby.signal").touch()
        with (self._data.parent / "standby.log").open("wb") as log:
            self._server = subprocess.Popen(
                [self._binaries / "bin/postgres", "-D", self._data],
                stdout=log, stderr=log, **_as_server(self._data.parent),
            )  # fmt: skip
        wait_until(self._standby_answers, 30, f"the standby answers; {self._data.parent / 'standby.log'}")

    def primary(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the server that was the primary first, as superuser."""
        return _ask(self._primary.endpoints().superuser_dsn, statement, *values)

    def standby(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the other one."""
        return _ask(self.standby_dsn, statement, *values)

    @property
    def standby_dsn(self) -> str:
        parts = urlsplit(self._primary.endpoints().superuser_dsn)
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@{LOOPBACK}:{self.standby_port}"))

    def set_on_primary(self, name: str, value: str) -> None:
        """ALTER SYSTEM and reload."""
        self.primary(f"ALTER SYSTEM SET {name} = '{value}'")
        self.primary("SELECT pg_reload_conf()")

    def wait_until_slot_is_ready(self) -> None:
        """Until the standby's copy of the relay's slot would survive a promotion."""
        ready = (
            "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL"
        )
        wait_until(lambda: self.standby(ready) == [(1,)], 60, "the slot is synchronised")

    def cut_replication(self) -> None:
        """From here on the standby gets nothing more."""
        self.standby(f"ALTER SYSTEM SET primary_conninfo = 'host={LOOPBACK} port=1'")
        self.standby("SELECT pg_reload_conf()")
        senders = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'"
        wait_until(lambda: self.primary(senders) == [(0,)], 20, "nothing is sent to the standby")

    def kill_primary(self) -> None:
        """kill -9 of all its processes."""
        self._primary.kill_postgres()

    def fail_over(self) -> None:
        """kill -9 of the primary, then promote the standby."""
        self.kill_primary()
        assert self.standby("SELECT pg_promote(true, 30)") == [(True,)]

    def stop(self) -> None:
        """End the standby, or what became of it."""
        if self._server is not None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(10)
            self._server.kill()
            self._server.wait(10)

    def _standby_answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self._data.parent / "standby.log").read_text()[-2000:]
        try:
            return self.standby("SELECT pg_is_in_recovery()") == [(True,)]
        except psycopg.OperationalError:
            return False


@contextlib.contextmanager
def new_pair(stack: Stack, **environ: str) -> Iterator[Pair]:
    """A primary of its own with `init` done in it, on the Kafka of `stack`. The standby is not started yet."""
    primary = Stack(temporary_folder(), durable=False, temporary=True, parts=frozenset({"postgres"}))
    primary.up(attached=True)
    account = server_account(Path("no such folder"))
    folder = Path(tempfile.mkdtemp()) if account is None else passable_folder(account, "dovetail-standby-")
    endpoints = replace(primary.endpoints(), bootstrap_servers=stack.endpoints().bootstrap_servers)
    port = free_ports(1)[0]
    world = World(stack, _with_both(endpoints, port), **environ)
    pair = Pair(primary, port, folder / "data", world, postgres_binaries("18", account, lambda _word: None))
    try:
        world.install()
        yield pair
    finally:
        world.close()
        pair.stop()
        primary.down()
        shutil.rmtree(folder, ignore_errors=True)


def _with_both(endpoints: Endpoints, standby_port: int) -> Endpoints:
    def both(dsn: str, query: str = "target_session_attrs=read-write") -> str:
        parts = urlsplit(dsn)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc},{LOOPBACK}:{standby_port}", query=query))

    names = ("owner_dsn", "operator_dsn", "app_dsn", "superuser_dsn")
    # The relay finds the primary by itself.
    own = {"relay_dsn": both(endpoints.relay_dsn, "")}
    return replace(endpoints, **own, **{name: both(getattr(endpoints, name)) for name in names})


def _ask(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def _as_server(folder: Path) -> dict[str, Any]:
    account = server_account(folder)
    own = {"cwd": folder}
    return own if account is None else {**own, "user": account.uid, "group": account.gid, "extra_groups": []}
