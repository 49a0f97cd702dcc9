"""An operator at the command line: the real `dovetail`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from support.world import World

_SECONDS = 90


class Command:
    """One `dovetail …` that runs beside the test."""

    def __init__(self, world: World, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dovetail_relay", *arguments],
            env={**os.environ, **world.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),
        )

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        out, err = self._process.communicate(timeout=_SECONDS)
        assert "Traceback" not in err, err
        return self._process.returncode, out, err


def dovetail(world: World, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command that ends by itself."""
    return Command(world, *arguments).end()


def dovetail_json(world: World, *arguments: str, code: int = 0) -> Any:
    """What a command prints with `--output json`."""
    ended, out, err = dovetail(world, "--output", "json", *arguments)
    assert ended == code, f"exit {ended}\n{out}{err}"
    return json.loads(out)
