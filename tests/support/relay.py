"""A relay as a process: the very `dovetail relay run` that users run, or the same with a killer inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from support.prepared import Prepared
from support.waiting import wait_until

RUN = ("-m", "dovetail_relay", "relay", "run")


class RelayProcess:
    """Started by its constructor. `arguments` replace the command: for example `-m dovetail_relay.crash half 2`."""

    def __init__(self, environ: dict[str, str], *arguments: str) -> None:
        command = arguments or RUN
        with tempfile.NamedTemporaryFile(prefix="dovetail-relay-", suffix=".log", delete=False) as log:
            self.log_path = Path(log.name)
        tests = Path(__file__).parents[1]
        self._environ = {**os.environ, **environ, "PYTHONPATH": str(tests), "DOVETAIL_LOG__FORMAT": "json"}
        self._last_words: list[str] | None = None
        self.process: subprocess.Popen[bytes] | Prepared
        if command[0] == "-m":
            self.process = Prepared(command[1], command[2:], self._environ, stdout=None, stderr=self.log_path)
            return
        with self.log_path.open("wb") as log_file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                cwd=tempfile.gettempdir(),
            )

    def log(self) -> str:
        return self.log_path.read_text()

    def events(self) -> list[dict[str, object]]:
        """The log lines so far, as objects; the last may be half written."""
        whole, _, _ = self.log().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    @property
    def halts(self) -> list[str]:
        """The lines of its log that name a halt, also after it was ended."""
        lines = self._last_words if self._last_words is not None else self.log().splitlines()
        return [line for line in lines if '"relay_halted"' in line]

    def has_logged(self, event: str) -> bool:
        return any(line.get("event") == event for line in self.events())

    def wait_for_log(self, event: str, timeout: float = 30.0) -> RelayProcess:
        """Until it has logged `event`; fails at once where it has ended before."""

        def logged_or_ended() -> bool:
            return self.has_logged(event) or self.process.poll() is not None

        wait_until(logged_or_ended, timeout, f"the relay logs {event}; so far:\n{self.log()[-2000:]}")
        assert self.has_logged(event), f"the relay ended with {self.process.returncode}:\n{self.log()[-2000:]}"
        return self

    def wait_streaming(self, timeout: float = 30.0) -> RelayProcess:
        return self.wait_for_log("stream_started", timeout)

    def last_words(self) -> str:
        """How it is and the end of its log, for whoever reads of a failure."""
        if self._last_words is not None:
            return "\n".join(["a relay that the test ended:", *self._last_words[-20:]])
        return f"a relay with exit code {self.process.poll()}:\n{self.log()[-4000:]}"

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_ended(self, timeout: float = 30.0) -> int:
        """Its exit code; negative for a signal."""
        return self.process.wait(timeout)

    def port(self) -> int:
        self.wait_for_log("health_listening")
        return next(int(str(line["port"])) for line in self.events() if line.get("event") == "health_listening")

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of its HTTP port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self, name: str) -> dict[str, float]:
        """The metric by its labels, as they are printed; one without labels under ""."""
        found = {}
        for line in self.get("/metrics")[1].splitlines():
            labelled, _, value = line.rpartition(" ")
            bare, brace, labels = labelled.partition("{")
            if bare == name:
                found[brace + labels] = float(value)
        return found

    def metric(self, name: str) -> float:
        """Of all labels together."""
        return sum(self.metrics(name).values())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def terminate(self, timeout: float = 10.0) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_ended(timeout)

    def kill(self) -> None:
        """kill -9, wherever it is; nothing where it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)
        if self._last_words is None:
            self._last_words = self.log().splitlines()
        self.log_path.unlink(missing_ok=True)
