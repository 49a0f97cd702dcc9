"""Who a process is: its id together with its start time, because ids are used again.

Nothing in this room signals a bare process id.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self/stat").exists()
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Loaded before any fork: a child between fork and exec must not take the loader's locks.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, told apart from any later process with the same id."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return identify(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False where it is gone."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def identify(pid: int) -> Identity | None:
    """Give the identity of a running process, None where no such process runs."""
    if _HAS_PROC:
        fields = _stat(pid)
        return None if fields is None or _has_ended(pid, fields[0]) else Identity(pid, fields[19])
    told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = told.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else Identity(pid, started.strip())


def descendants(pid: int) -> list[Identity]:
    """List every running process below `pid`, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[Identity] = []
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(0), []):
            queue.append(child)
            identity = identify(child)
            if identity is not None:
                found.append(identity)
    return found


def processes_inside(folder: Path) -> list[Identity]:
    """List the processes whose current folder is `folder`: for a data directory, PostgreSQL's own (Linux only)."""
    found: list[Identity] = []
    if not _HAS_PROC:
        return found
    folder = folder.resolve()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if (_PROC / str(pid) / "cwd").readlink() == folder:
                identity = identify(pid)
                if identity is not None:
                    found.append(identity)
    return found


def kill_tree(root: Identity) -> list[Identity]:
    """Kill a process and everything below it with SIGKILL, and give back whom it hit.

    The root is stopped first, so that it can neither start more children nor see its children die.
    """
    if not root.signal(signal.SIGSTOP):
        return []
    below = descendants(root.pid)
    for identity in [*below, root]:
        identity.signal(signal.SIGKILL)
    return [*below, root]


def die_with_parent(number: int) -> Callable[[], None]:
    """Make a function for the child side of a fork, after which the parent's death sends it signal `number`.

    It must run after the change of user: the kernel forgets the request there.
    """
    parent = os.getpid()

    def ask() -> None:
        if _LIBC is None:
            return
        _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the request
            os._exit(1)

    return ask


def adopt_orphans() -> None:
    """Make orphaned grandchildren children of this process, so that it can reap them (Linux only)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Read the fields of /proc/PID/stat from the state on; the name before it may hold spaces and brackets."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _has_ended(pid: int, state: str) -> bool:
    """Tell whether a process holds nothing any more: its first thread may be a zombie while others still end."""
    if state not in "ZX":
        return False
    try:
        return len(list((_PROC / str(pid) / "task").iterdir())) <= 1
    except OSError:
        return True


def _parents() -> list[tuple[int, int]]:
    if _HAS_PROC:
        stats = ((pid, _stat(pid)) for pid in _pids())
        return [(pid, int(fields[1])) for pid, fields in stats if fields is not None]
    told = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True)
    return [(int(pid), int(parent)) for pid, parent in (line.split() for line in told.stdout.splitlines())]
