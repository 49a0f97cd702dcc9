"""Processes that begin at once: forked from one that has imported everything, as a server's workers are.

Each is a process of its own, from the entry point on the same as `python -m …`, and can be stopped and killed like any
other. What it saves is the half second that Python and the libraries need to load: the tests start thousands of them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
# Not the modules that are run: a module that is there already is not run as `__main__` without a warning.
_FORKS.set_forkserver_preload(
    ["dovetail_relay.service", "dovetail_relay.cli.run", "dovetail_relay.cli.app", "dovetail_relay.cli.commands"]
)


class Prepared:
    """`python -m MODULE ARGUMENTS` with that environment; with the part of Popen's interface that the tests use."""

    def __init__(
        self, module: str, arguments: Sequence[str], environ: dict[str, str], *, stdout: Path | None, stderr: Path
    ) -> None:
        self._process = _FORKS.Process(
            target=_become, args=(module, list(arguments), environ, stdout, stderr), name=module, daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(module: str, arguments: list[str], environ: dict[str, str], stdout: Path | None, stderr: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(tempfile.gettempdir())
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, stdout or os.devnull, os.O_WRONLY | os.O_APPEND),
        (2, stderr, os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has closed the one that was there
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def completed(environ: dict[str, str], *words: str, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
    """`dovetail WORDS` to its end, with what it printed."""
    with tempfile.TemporaryDirectory(prefix="dovetail-command-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        out.touch()
        err.touch()
        process = Prepared("dovetail_relay", words, environ, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
