"""A stack: one PostgreSQL and one Kafka cluster in a folder.

    with Stack.attached(folder) as endpoints:      the servers go when the body, or this process, ends
        ...
    Stack(folder).up(attached=False)               the servers stay until `Stack(folder).down()`

Starting and stopping take a lock in the folder, so two starters on one folder never race. The methods that break
things (`kill_postgres`, `pause_broker`, ...) return when the thing is so; `start_...` when the server answers.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from dovetail_local import control, kafka, postgres
from dovetail_local.cache import exclusively
from dovetail_local.control import ServerState, await_until
from dovetail_local.endpoints import Endpoints
from dovetail_local.errors import LocalError, NothingToDo, Unreachable, WrongUsage
from dovetail_local.identity import Identity
from dovetail_local.maven import Say
from dovetail_local.plan import Layout
from dovetail_local.recipe import Recipe, Wish, build_plan, load_recipe, make_recipe

__all__ = ["Endpoints", "ServerState", "Stack"]

_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


def _silent(_: str) -> None:
    pass


class Stack:
    """Servers in one folder. The object holds no servers itself, unless it was brought up attached."""

    def __init__(
        self,
        directory: Path,
        brokers: int = 1,
        postgres_version: str = "18",
        kafka_version: str = "4.1.1",
        *,
        durable: bool = True,
        heap: str = "256m",
        temporary: bool = False,
        parts: frozenset[str] = frozenset({"postgres", "kafka"}),
        say: Say = _silent,
    ) -> None:
        """Describe a stack; nothing starts yet.

        `durable=False` lets PostgreSQL skip fsync: faster, and a crash of the machine loses data. `temporary` stacks
        vanish with their folder when they stop. `parts` names which of the two servers to run. `say` is given words
        about what takes long.
        """
        self.layout = Layout(directory.absolute())
        self._wish = Wish(brokers, postgres_version, kafka_version, durable, heap, temporary, parts)
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def attached(cls, directory: Path, **options: object) -> Iterator[Endpoints]:
        """Run a stack in `directory` for the time of the body; `options` are those of the constructor."""
        stack = cls(directory, **options)  # type: ignore[arg-type]
        try:
            yield stack.up(attached=True)
        finally:
            if stack.owns_servers:
                stack.down()

    @property
    def owns_servers(self) -> bool:
        """Tell whether the servers end with this object: it was brought up attached and started them itself."""
        return self._process is not None

    def up(self, *, attached: bool) -> Endpoints:
        """Bring every server up and say where they are; on a running stack, only say so.

        Attached, the servers end with this process, however it ends. An interruption leaves no process behind.
        """
        self._wish.check()
        made = self._make_folder()
        with exclusively(self.layout.up_lock):
            try:
                return self._up(attached=attached)
            except BaseException as error:
                # Within the lock: who waits for it must find either all or nothing.
                self._abandon(forget=self._wish.temporary or (made and not isinstance(error, Unreachable)))
                if isinstance(error, OSError):
                    raise LocalError(f"{error.filename or self.layout.directory}: {error.strerror}") from error
                raise

    def _up(self, *, attached: bool) -> Endpoints:
        self._make_folder()  # again: who held the lock may have removed it
        if control.supervisor_runs(self.layout):
            self._start_missing()
        else:
            self._start_all()
            if not attached:
                self.detach()
        return self.endpoints()

    def detach(self) -> None:
        """Let the servers of an attached stack outlive this process: from now on only `down` stops them."""
        process, self._process = self._process, None
        if process is not None:
            control.let_go(process)

    def down(self, *, delete: bool = False) -> None:
        """Stop every server, and with `delete` remove their data. Raises NothingToDo where nothing runs."""
        if not self.layout.directory.is_dir():
            raise NothingToDo(f"no stack in {self.layout.directory}: start one with `dovetail local up`")
        with exclusively(self.layout.up_lock):
            runs = control.supervisor_runs(self.layout)
            known = self.layout.record.exists()
            if runs:
                self._stop_supervisor()
            if delete and known:
                self._clear_leftovers()
                self._delete()
            elif not runs:
                raise NothingToDo(f"no stack runs in {self.layout.directory}: start one with `dovetail local up`")

    def status(self) -> list[ServerState]:
        """Give the state of every server, an empty list where the stack does not run."""
        if not control.supervisor_runs(self.layout):
            return []
        return control.ask(self.layout, "status")

    def endpoints(self) -> Endpoints:
        """Say where the servers are, whether or not they run."""
        return self._recipe().endpoints()

    def postgres_pid(self) -> int | None:
        """Give the process id of the postmaster, None while it does not run."""
        return self._state(postgres.NAME).pid

    def stop_postgres(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Shut PostgreSQL down: "fast" with a checkpoint, "immediate" without (the next start recovers)."""
        self._signal(postgres.NAME, mode)

    def kill_postgres(self) -> None:
        """Kill every process of PostgreSQL with SIGKILL."""
        self._signal(postgres.NAME, "kill")

    def start_postgres(self) -> None:
        """Start PostgreSQL again, on the same port and data."""
        self._start(postgres.NAME)

    def stop_broker(self, node: int) -> None:
        """Shut a broker down in order."""
        self._signal(kafka.server_name(node), "stop")

    def kill_broker(self, node: int) -> None:
        """Kill a broker with SIGKILL."""
        self._signal(kafka.server_name(node), "kill")

    def start_broker(self, node: int) -> None:
        """Start a broker again, on the same ports and data."""
        self._start(kafka.server_name(node))

    def pause_broker(self, node: int) -> None:
        """Freeze a broker: its connections stay open and nothing answers."""
        control.ask(self.layout, "signal", server=kafka.server_name(node), way="pause")

    def resume_broker(self, node: int) -> None:
        """Let a frozen broker go on."""
        control.ask(self.layout, "signal", server=kafka.server_name(node), way="resume")

    def _recipe(self) -> Recipe:
        recipe = load_recipe(self.layout)
        if recipe is None:
            raise NothingToDo(f"no stack in {self.layout.directory}: start one with `dovetail local up`")
        return recipe

    def _make_folder(self) -> bool:
        """Make the stack's folder; True where it is new."""
        folder = self.layout.directory
        new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if new:
                # Root's PostgreSQL runs under another user, who must get through; the secrets are 0600 anyway.
                folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self.layout.logs.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise LocalError(f"cannot write to {folder} ({error.strerror}): name another folder with --dir") from error
        return new

    def _start_all(self) -> None:
        self._clear_leftovers()
        recipe = make_recipe(self.layout, self._wish, self._say)
        build_plan(self.layout, recipe, self._wish, self._say)
        self._process = control.launch(self.layout)
        deadline = time.monotonic() + _READY_SECONDS
        self._await(self.layout.control.exists, "the supervisor", deadline)
        for state in self.status():
            self._await_ready(state.name, deadline)
        recipe.finish()

    def _start_missing(self) -> None:
        recipe = self._recipe()
        recipe.check(self._wish, self.layout.directory)
        if set(recipe.parts) != self._wish.parts:
            raise WrongUsage(
                f"the stack in {self.layout.directory} runs {' and '.join(recipe.parts)} only: "
                "stop it with `dovetail local down`, then start it again"
            )
        for state in self.status():
            if state.pid is None:
                self._start(state.name)
            elif state.state != "paused":
                self._await_ready(state.name, time.monotonic() + _READY_SECONDS)
        recipe.finish()

    def _clear_leftovers(self) -> None:
        """After a crash of the supervisor, wait for its servers to die with it, and help those that do not."""
        deadline = time.monotonic() + 5.0
        left = control.recorded_processes(self.layout)
        while any(identity.alive() for identity in left) and await_until(deadline):
            pass
        for identity in left:
            control.end(identity)
        self.layout.control.unlink(missing_ok=True)
        self.layout.processes.unlink(missing_ok=True)

    def _await(self, condition: Callable[[], bool], what: str, deadline: float) -> None:
        while not condition():
            if self._process is not None and self._process.poll() is not None:
                raise LocalError(f"{what} ended at once: see {self.layout.logs / 'supervisor.log'}")
            if not await_until(deadline):
                raise Unreachable(f"{what} did not answer in time: see {self.layout.logs}")

    def _await_ready(self, name: str, deadline: float) -> None:
        recipe = self._recipe()

        def ready() -> bool:
            state = self._state(name)
            if state.pid is None:
                raise Unreachable(f"{name} ended with status {state.exit_status}: see {self.layout.logs}")
            return recipe.answers(name)

        self._await(ready, name, deadline)

    def _state(self, name: str) -> ServerState:
        for state in self.status():
            if state.name == name:
                return state
        raise Unreachable(f"{name} does not run in {self.layout.directory}: start it with `dovetail local up`")

    def _signal(self, name: str, way: str) -> None:
        control.ask(self.layout, "signal", server=name, way=way)
        deadline = time.monotonic() + _STOP_SECONDS
        self._await(lambda: self._state(name).pid is None, f"the end of {name}", deadline)

    def _start(self, name: str) -> None:
        self._recipe().before_start(name)
        control.ask(self.layout, "start", server=name)
        self._await_ready(name, time.monotonic() + _READY_SECONDS)

    def _stop_supervisor(self) -> None:
        """Ask the supervisor to leave and wait until it has; one that does not obey is killed with its servers."""
        known = control.recorded_processes(self.layout)
        with contextlib.suppress(Unreachable):
            control.ask(self.layout, "shutdown")
        self._await_end(known)

    def _await_end(self, known: list[Identity]) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
        # The lock is free a moment before the process is gone.
        while control.supervisor_runs(self.layout) or any(identity.alive() for identity in known):
            if process is not None:
                process.poll()
            if not await_until(deadline):
                self._say("the supervisor does not obey: killing it")
                for identity in known:
                    control.end(identity)
                deadline += _STOP_SECONDS
        if process is not None:
            process.wait()  # only its starter can reap it

    def _abandon(self, *, forget: bool) -> None:
        """Undo a start that did not come to its end."""
        if self._process is not None:
            self._await_end(control.recorded_processes(self.layout))
        if forget and self.layout.directory.exists():
            self._delete()

    def _delete(self) -> None:
        recipe = load_recipe(self.layout)
        folders = [] if recipe is None else recipe.folders_elsewhere()
        for folder in [*folders, self.layout.directory]:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_folder() -> Path:
    """Make a folder for a temporary stack, open enough for PostgreSQL's user."""
    folder = Path(tempfile.mkdtemp(prefix="dovetail-local-"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder
