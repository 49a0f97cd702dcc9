"""The demo's processes: each dies with the demo, however the demo ends.

On Linux the kernel does it; elsewhere the watchdog of the local stack. They are started from the main thread only,
because the kernel's promise is bound to the thread that forks. Sessions of their own keep the terminal's Ctrl-C from
them: the demo stops them itself.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from dovetail_local.errors import LocalError, Unreachable
from dovetail_local.identity import Identity, die_with_parent, identify
from dovetail_local.watchdog import Watchdog

_STOP_SECONDS = 10.0


def dovetail_command() -> list[str]:
    """Give the program `dovetail` as users run it: the one installed beside this interpreter."""
    beside = Path(sys.executable).with_name("dovetail")
    found = str(beside) if beside.exists() else shutil.which("dovetail")
    if found is None:
        raise LocalError("the program `dovetail` is not on the PATH: pip install 'dovetail[relay,local]'")
    return [found]


def service_command(module: str, *arguments: str) -> list[str]:
    """Give the command line of one of the demo's services."""
    return [sys.executable, "-P", "-m", f"dovetail_local.demo.{module}", *arguments]


class Child:
    """One running process; its words go to a log, and what it writes to standard output can be read without waiting."""

    def __init__(self, name: str, argv: list[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start it."""
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one prctl, from the main thread
            )
        self._output = self.process.stdout.fileno() if self.process.stdout is not None else -1
        self._unread = b""
        os.set_blocking(self._output, False)

    def lines(self) -> list[bytes]:
        """Give the whole lines that it has written since the last call."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._output, 65536):
                self._unread += part
        *whole, self._unread = self._unread.split(b"\n")
        return whole

    def last_words(self) -> str:
        """Give the last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        """Wait for its end and let its output go."""
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Children:
    """Children by name; at the end of the `with` block none of them is left."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        """Every child gets this environment and works in this folder."""
        self._environment = environment
        self._folder = folder
        self._running: dict[str, Child] = {}
        self._watchdog = Watchdog.where_needed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._running.values():
            child.process.kill()
        for child in self._running.values():
            child.close()

    def start(self, name: str, argv: list[str]) -> None:
        """Start a child under a name that no running child has."""
        self._running[name] = Child(name, argv, self._environment, self._folder)
        if self._watchdog is not None:
            self._watchdog.watch([known for known in map(_identity, self._running.values()) if known is not None])

    def check(self) -> None:
        """Raise where a child has ended by itself."""
        for child in self._running.values():
            status = child.process.poll()
            if status is not None:
                raise LocalError(f"{child.name} ended with status {status}: {child.last_words()}")

    def lines(self, name: str) -> list[bytes]:
        """Give the whole lines that a running child has written since the last call."""
        return self._running[name].lines()

    def kill(self, name: str) -> None:
        """Kill with SIGKILL; the child is gone when this returns."""
        child = self._running.pop(name)
        child.process.kill()
        child.close()

    def stop(self, name: str) -> list[bytes]:
        """Stop with SIGTERM and give the last lines that were written. Raises where the child does not end well."""
        child = self._running[name]
        child.process.terminate()
        self._await_success(child, _STOP_SECONDS)
        lines = child.lines()
        self._running.pop(name).close()
        return lines

    def run(self, name: str, argv: list[str], seconds: float) -> None:
        """Run a child to its end. Raises where it fails or takes longer."""
        self.start(name, argv)
        self._await_success(self._running[name], seconds)
        self._running.pop(name).close()

    def _await_success(self, child: Child, seconds: float) -> None:
        try:
            status = child.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LocalError(f"{child.name} did not end within {seconds:g} s: {child.last_words()}") from None
        if status:
            kind = Unreachable if status == Unreachable.exit_code else LocalError
            raise kind(f"{child.name} ended with status {status}: {child.last_words()}")


def _identity(child: Child) -> Identity | None:
    return identify(child.process.pid)
