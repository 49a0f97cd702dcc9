"""The process that owns the servers: `python -m dovetail_local.supervisor DIRECTORY`.

It starts what the plan lists, obeys the control socket, and starts nothing again by itself. Its life:

- Its standard input is the lifeline. End of file there, before the word "detach" was read, means that the starter
  is gone: it stops every server and leaves. The same goes for SIGTERM, SIGINT and the "shutdown" command.
- After "detach" only a command or a signal ends it.
- Where it dies itself, the kernel sends every server its death signal; where the kernel cannot, a watchdog does.

One thread only: the death signal is bound to the thread that forked.
"""

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail_local.identity import Identity, adopt_orphans, die_with_parent, identify, kill_tree
from dovetail_local.plan import Layout, Plan, Server, read_plan, write_private
from dovetail_local.watchdog import Watchdog

# Kafka writes its last checkpoints in about two seconds; longer means that it waits for a broker that is gone.
_STOP_SECONDS = 12.0
_KILL_SECONDS = 5.0
_REQUEST_SECONDS = 2.0
_REQUEST_BYTES = 65536
_LOOK_SECONDS = 2.0


@dataclass(slots=True)
class Child:
    """A server and what is known of its process."""

    server: Server
    identity: Identity | None = None
    exit_status: int | None = None
    paused: bool = False

    @property
    def running(self) -> bool:
        """Tell whether it has been started and not been reaped."""
        return self.identity is not None and self.exit_status is None

    def state(self) -> dict[str, Any]:
        """Describe it for the control socket."""
        word = "paused" if self.paused else "running"
        if not self.running:
            word = "stopped" if self.identity is None or self.exit_status == 0 else "exited"
        return {
            "name": self.server.name,
            "state": word,
            "pid": self.identity.pid if self.identity is not None and self.running else None,
            "port": self.server.port,
            "exit_status": self.exit_status,
        }


class Supervisor:
    """See the module's words."""

    def __init__(self, layout: Layout, plan: Plan, watchdog: Watchdog | None) -> None:
        """Take the plan; nothing runs yet."""
        self.layout = layout
        self.plan = plan
        self.children = {server.name: Child(server) for server in plan.servers}
        self.detached = False
        self.leaving = False
        self._watchdog = watchdog
        self._me = identify(os.getpid())

    @property
    def goes(self) -> bool:
        """Tell whether the data go at the end: the stack is temporary, or somebody has removed its folder."""
        return self.plan.temporary or not self.layout.plan.exists()

    def start(self, name: str) -> None:
        """Start a server that does not run."""
        child = self.children[name]
        if child.running:
            return
        server = child.server
        with Path(server.log).open("ab") as log:
            process = subprocess.Popen(
                server.argv,
                cwd=server.folder,
                env=server.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=server.uid,
                group=server.gid,
                extra_groups=None if server.uid is None else [],
                start_new_session=True,
                preexec_fn=die_with_parent(server.death_signal),  # noqa: PLW1509 - one thread only
            )
        child.exit_status, child.paused = None, False
        child.identity = identify(process.pid) or Identity(process.pid, "")
        # From here `reap` looks after the process; subprocess must not wait for it as well.
        process.returncode = 0
        self._record()

    def signal(self, name: str, way: str) -> None:
        """Stop, kill, pause or resume a running server."""
        child = self.children[name]
        if child.identity is None or not child.running:
            return
        if way == "kill":
            self._await_gone(kill_tree(child.identity))
        elif way in {"pause", "resume"}:
            child.identity.signal(signal.SIGSTOP if way == "pause" else signal.SIGCONT)
            child.paused = way == "pause"
        else:
            # A stopped process would not act on the signal.
            child.identity.signal(child.server.signals[way])
            child.identity.signal(signal.SIGCONT)
            child.paused = False

    def reap(self) -> None:
        """Note every process that has ended since the last time, adopted orphans included."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for child in self.children.values():
                    if child.running and child.identity is not None and child.identity.pid == pid:
                        child.exit_status = os.waitstatus_to_exitcode(status)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Obey one request of the control socket."""
        verb, name = request["do"], request.get("server", "")
        if verb in {"start", "signal"} and name not in self.children:
            return {"error": f"no server {name!r} in this stack"}
        if verb == "start":
            self.start(name)
        elif verb == "signal":
            self.signal(name, request["way"])
        elif verb == "shutdown":
            self.leaving = True
        self.reap()
        return {"pid": os.getpid(), "servers": [child.state() for child in self.children.values()]}

    def stop_all(self) -> None:
        """Stop every server: gently where the data stays, quickly where it goes; kill what does not obey."""
        for name in self.children:
            self.signal(name, "drop" if self.goes else "stop")
        deadline = time.monotonic() + _STOP_SECONDS
        while any(child.running for child in self.children.values()) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)  # a server may have children that outlive it, and those call nobody
        for name in self.children:
            self.signal(name, "kill")
        self.reap()

    def _await_gone(self, killed: list[Identity]) -> None:
        deadline = time.monotonic() + _KILL_SECONDS
        while any(identity.alive() for identity in killed) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.002)  # killed trees: most of them are not our children
        self.reap()

    def _record(self) -> None:
        """Leave word of who runs, for whoever comes after a crash."""
        running = [child.identity for child in self.children.values() if child.running and child.identity]
        who = [self._me, *running]
        write_private(self.layout.processes, [[one.pid, one.started] for one in who if one is not None])
        if self._watchdog is not None:
            self._watchdog.watch(running)


def serve(supervisor: Supervisor, listener: socket.socket, starter: int) -> None:
    """Run until there is a reason to leave."""
    selector = selectors.DefaultSelector()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def leave(*_: object) -> None:
        supervisor.leaving = True

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    selector.register(0, selectors.EVENT_READ, "lifeline")
    selector.register(listener, selectors.EVENT_READ, "control")
    selector.register(wake_read, selectors.EVENT_READ, "signal")
    starter_descriptor = _watch_starter(starter)
    if starter_descriptor is not None:
        selector.register(starter_descriptor, selectors.EVENT_READ, "starter")
    for name in supervisor.children:
        supervisor.start(name)
    while not supervisor.leaving and supervisor.layout.plan.exists():
        for key, _ in selector.select(_LOOK_SECONDS):
            if key.data == "signal":
                os.read(wake_read, 4096)
                supervisor.reap()
            elif key.data == "control":
                _serve_one(supervisor, listener)
            elif key.data == "lifeline":
                supervisor.detached = supervisor.detached or b"detach" in os.read(0, 4096)
                supervisor.leaving = supervisor.leaving or not supervisor.detached
                selector.unregister(0)
            elif key.data == "starter":
                # A fork of the starter may hold the lifeline open; the starter's own end counts as well.
                supervisor.leaving = supervisor.leaving or not supervisor.detached
                selector.unregister(key.fileobj)


def _serve_one(supervisor: Supervisor, listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError, ValueError, KeyError):
        connection.settimeout(_REQUEST_SECONDS)
        request = json.loads(connection.makefile("rb").readline(_REQUEST_BYTES))
        try:
            reply = supervisor.answer(request)
        except OSError as error:
            reply = {"error": f"cannot {request['do']} {request.get('server', '')}: {error.strerror}"}
        connection.sendall(json.dumps(reply).encode() + b"\n")


def _watch_starter(pid: int) -> int | None:
    """Open a descriptor that becomes readable when the starter ends; None where the system has none."""
    if not hasattr(os, "pidfd_open") or os.getppid() != pid:
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return None


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _listen(path: Path) -> socket.socket:
    """Open the control socket. It appears under its name only once it accepts connections."""
    draft = Path(path.name + ".new")  # relative: a socket's path holds about a hundred characters only
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(draft))
    listener.listen()
    draft.replace(path)
    return listener


def main(arguments: list[str]) -> int:
    """Run the supervisor of the stack in the given folder."""
    layout = Layout(Path(arguments[0]))
    os.umask(0o077)
    lock = layout.alive_lock.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write("another supervisor runs this stack\n")
        return 1
    os.chdir(layout.directory)
    plan = read_plan(layout.plan)
    adopt_orphans()
    listener = _listen(layout.control)
    supervisor = Supervisor(layout, plan, Watchdog.where_needed())
    try:
        serve(supervisor, listener, int(arguments[1]))
    finally:
        supervisor.stop_all()
        layout.control.unlink(missing_ok=True)
        layout.processes.unlink(missing_ok=True)
        os.chdir("/")
        if supervisor.goes:
            for folder in [*map(Path, plan.elsewhere), layout.directory]:
                shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
