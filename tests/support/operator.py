"""An operator at the command line: the real `dovetail`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from support.pages import shell
from support.prepared import Prepared
from support.stuck import parked
from support.waiting import wait_until
from support.world import World

_SECONDS = 90


class Command:
    """One `dovetail …` that runs beside the test."""

    def __init__(self, world: World, *arguments: str, **environ: str) -> None:
        self._said = tempfile.TemporaryDirectory(prefix="dovetail-command-")
        out, err = (Path(self._said.name) / name for name in ("out", "err"))
        out.touch()
        err.touch()
        self._out, self._err = out, err
        self._process = Prepared(
            "dovetail_relay", arguments, {**os.environ, **world.environ, **environ}, stdout=out, stderr=err
        )

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def said(self) -> str:
        """What it has written on stderr so far."""
        return self._err.read_text()

    def end(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        code = self._process.wait(_SECONDS)
        out, err = self._out.read_text(), self._err.read_text()
        self._said.cleanup()
        assert "Traceback" not in err, err
        return code, out, err


def dovetail(world: World, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that ends by itself."""
    return Command(world, *arguments).end()


def dovetail_json(world: World, *arguments: str, code: int = 0) -> Any:
    """What a command prints with `--output json`."""
    ended, out, err = dovetail(world, "--output", "json", *arguments)
    assert ended == code, f"exit {ended}\n{out}{err}"
    return json.loads(out)


def run(world: World, *arguments: str, code: int = 0, **environ: str) -> Any:
    """The same, or what it said on stderr where it printed nothing."""
    ended, out, err = Command(world, "--output", "json", *arguments, **environ).end()
    assert ended == code, f"exit {ended}\n{out}{err}"
    return json.loads(out) if out else err


def release_and_pause(world: World, queue: list[str]) -> None:
    """A slow release of the whole queue, interrupted once it has begun."""
    asked = Command(world, "stuck", "release", "--all", "--rate", "0.5", "--yes", "--reason", "x")
    wait_until(lambda: len(parked(world)) < len(queue), 20, "it has begun")
    asked.interrupt()
    assert asked.end()[0] == 130


def run_page(world: World, page: str, **environ: str) -> str:
    """All shell blocks of a page, in one shell that stops at the first failure; what they printed."""
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + shell(page)],
        env={**os.environ, **world.environ, **environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def audited(world: World) -> list[tuple[str, str | None]]:
    """(action, reason) of the whole audit log."""
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return connection.execute("SELECT action, reason FROM dovetail.audit_log ORDER BY seq").fetchall()
