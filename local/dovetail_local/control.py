"""Speaking to a stack's supervisor from another process."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail_local.errors import LocalError, Unreachable
from dovetail_local.identity import Identity, kill_tree
from dovetail_local.plan import Layout

_ANSWER_SECONDS = 15.0
_SOCKET_PATH_BYTES = 100
_FOLDERS = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as the supervisor sees it: running, paused, stopped (on demand or cleanly), or exited (badly)."""

    name: str
    state: str
    pid: int | None
    port: int
    exit_status: int | None


def supervisor_runs(layout: Layout) -> bool:
    """Tell whether a supervisor holds the stack; the kernel answers, no file can be stale."""
    try:
        with layout.alive_lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    except PermissionError as error:
        raise LocalError(
            f"the stack in {layout.directory} belongs to another user: name another folder with --dir"
        ) from error
    return False


def launch(layout: Layout) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own; its standard input is the lifeline."""
    with (layout.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "dovetail_local.supervisor", str(layout.directory), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=layout.directory,
            start_new_session=True,
        )


def close_lifeline(process: subprocess.Popen[bytes]) -> None:
    """Tell an attached supervisor to stop everything, and wait until it has."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Leave a supervisor to itself."""
    if process.stdin is not None:
        process.stdin.write(b"detach\n")
        process.stdin.close()
    process.returncode = 0  # it lives on by design; subprocess need not warn of it


def ask(layout: Layout, verb: str, **details: str) -> list[ServerState]:
    """Send one request and give the states of all servers after it."""
    try:
        reply = _exchange(layout, {"do": verb, **details})
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"the supervisor of {layout.directory} does not answer ({error}): see {layout.logs / 'supervisor.log'}"
        ) from error
    if "error" in reply:
        raise LocalError(str(reply["error"]))
    return [ServerState(**server) for server in reply["servers"]]


def recorded_processes(layout: Layout) -> list[Identity]:
    """Give the processes that the last supervisor wrote down; any of them may be gone."""
    try:
        return [Identity(pid, started) for pid, started in json.loads(layout.processes.read_text())]
    except (OSError, ValueError):
        return []


def await_until(deadline: float) -> bool:
    """Wait a moment; False once the deadline (of `time.monotonic`) has passed."""
    time.sleep(0.01)  # what is waited for (a file, a process of somebody else's) calls nobody
    return time.monotonic() < deadline


def _exchange(layout: Layout, request: dict[str, str]) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(_ANSWER_SECONDS)
        path = str(layout.control)
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            # Too long for a socket's address; Linux also takes the way through an open folder.
            if not _FOLDERS.is_dir():
                raise LocalError(f"the path {path} is too long for a socket: name a shorter folder with --dir")
            folder = os.open(layout.directory, os.O_RDONLY)
            stack.callback(os.close, folder)
            path = str(_FOLDERS / str(folder) / layout.control.name)
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        reply = json.loads(connection.makefile("rb").readline())
        return dict(reply)


def end(identity: Identity) -> None:
    """Kill what is left of a recorded process and everything below it."""
    kill_tree(identity)
