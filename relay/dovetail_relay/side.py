"""The second thread, which only waits: for a flush, a commit, a fencing. One job at a time, and a wake-up when done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class SideThread(Generic[T]):
    """Runs one callable at a time off the loop. `fileno` turns readable when the result is there.

    The loop owns it: `submit`, `poll` and `stop` are called from one thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        self.busy = False
        self._last: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._readable

    def submit(self, job: Callable[[], T]) -> None:
        """Start a job; raises RuntimeError while one is under way."""
        if self.busy:
            raise RuntimeError("one job at a time")
        self.busy = True
        self._jobs.put(job)

    def poll(self) -> tuple[T | None, BaseException | None] | None:
        """(result, exception) of the job once it has ended, None before."""
        if not self.busy or self._done.empty():
            return None
        os.read(self._readable, 1)
        self.busy = False
        return self._done.get()

    def stop(self, last: Callable[[], object] | None = None) -> None:
        """Let the thread end after its job, and do `last` there. Does not wait: a job may hang in a dead broker."""
        self._last = last
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                done: tuple[T | None, BaseException | None] = (job(), None)
            except BaseException as error:  # noqa: BLE001 - carried to the loop, which raises it
                done = (None, error)
            # The byte first: `poll` reads it as soon as it sees the result, so it must be there by then.
            os.write(self._writable, b"!")
            self._done.put(done)
        if self._last is not None:
            self._last()
        os.close(self._writable)
        os.close(self._readable)
