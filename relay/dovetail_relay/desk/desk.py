"""The desk: one operator's command at a time, taken from `dovetail.command` and done in steps between batches.

The Kafka transaction that performs a step carries its number in the checkpoint. What the step means in the database is
written before as a plan, and made so afterwards; where the process dies in between, the next leader reads in the
checkpoint whether the step was committed. So each step takes effect once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from dovetail_relay.desk.arguments import problem
from dovetail_relay.desk.release import Release
from dovetail_relay.desk.replay import Replay
from dovetail_relay.desk.task import Counts, Task, Work
from dovetail_relay.errors import PostgresUnavailable
from dovetail_relay.intake import Intake
from dovetail_relay.logs import log
from dovetail_relay.nouns import Batch, Checkpoint, CommandStep, Lsn, Place
from dovetail_relay.source.commands import Command, Commands, End, Kind
from dovetail_relay.source.lead import LockSession
from dovetail_relay.telemetry import LogEvent
from dovetail_schemas.sql import queries

# A message that ends the process when it is released would end every later one: the command is given up.
MANY_ATTEMPTS: Final = 5
KINDS: Final[tuple[Kind, ...]] = ("release", "discard", "replay")
# Numbers in a command's progress that count no events.
_NO_COUNTS: Final = frozenset({"step", "attempts"})
_NOTHING_LEFT: Final[Mapping[str, Any]] = {}


class OperatorDesk:
    """Implements `port.Desk`. Not thread-safe: it works on the leader's lock session."""

    def __init__(
        self,
        session: LockSession,
        relay: str,
        intake: Intake,
        *,
        most: int,
        most_bytes: int,
        topic_allowed: Callable[[str], bool],
        on_settled: Callable[[], None],
        on_written: Callable[[Lsn], None],
        newborn: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._relay = relay
        self._intake = intake
        self._most = most
        self._most_bytes = most_bytes
        self._topic_allowed = topic_allowed
        self._on_settled = on_settled
        self._on_written = on_written
        self._newborn = newborn
        # Processes in a row that went on with the command and ended before one more step was done.
        self._attempts: int | None = None
        self._clock = clock
        self._commands = Commands(session, relay)
        self._command: Command | None = None
        self._task: Task | None = None
        self._counts = Counts()
        self._number = 0
        self._plan: dict[str, Any] | None = None
        self._not_before = 0.0
        self._finished = False
        self._waits = False
        self._look_due = False
        # What is to be settled as soon as the audit log is free.
        self._end: tuple[End, str, Mapping[str, Any]] | None = None

    # -- what is asked for --------------------------------------------------------------------------------------------

    def begin(self, durable: Checkpoint) -> None:
        """A new leader: settle the step that the checkpoint carries, and forget those that it does not."""
        step = durable.command or CommandStep(0, 0)
        done = {"relay": self._relay, "command": step.id, "step": step.step}
        self._session.rows(queries["desk_let_go"], done)
        self._session.rows(queries["desk_unmark"], {**done, "backfill": durable.backfill is not None})
        for command in self._commands.active(*KINDS):
            plan = command.progress.get("planned")
            if command.id == step.id and plan and plan["step"] == step.step:
                self._commands.progress(command.id, **plan, planned=None)
        if durable.command is not None:
            self._settled()
        self.look()

    def look(self) -> None:
        """Take up what is new, and let go what its operator no longer wants. Cheap; called with each pulse."""
        self._look_due = self._plan is not None
        if self._look_due:
            return  # its step is under way: first see what becomes of it
        active = self._commands.active(*KINDS)
        command = active[0] if active else None
        if command is None:
            self._drop()
        elif command.wanted == "withdraw":
            self._withdraw(command)
        elif command.wanted == "pause":
            self._drop()
            if command.state != "paused":
                self._session.rows(queries["desk_wanted"], {"id": command.id, "state": "paused"})
        elif self._command is None or self._command.id != command.id:
            self._take(command)
        elif self._end is not None:
            self._settle(*self._end)
        elif self._finished:
            self._finish()

    def _withdraw(self, command: Command) -> None:
        self._drop()
        self._session.rows(queries["desk_spare"], {"relay": self._relay, "command": command.id})
        with suppress(PostgresUnavailable):  # somebody holds the audit log: with the next look
            self._commands.settle(command.id, "withdrawn", "withdrawn; what was done stays")

    def _take(self, command: Command) -> None:
        if not self._commands.take(command):
            return
        log(LogEvent.COMMAND_TAKEN, f"{command.kind} asked for by {command.actor}", command=command.id)
        self._command = command
        self._finished = False
        self._end = None
        went_on = command.state == "running" and self._newborn
        self._attempts = int(command.progress.get("attempts") or 0) if went_on else None
        wrong = problem(command.kind, command.arguments) or self._hopeless()
        if wrong is not None:
            # What it has condemned and not passed yet the relay stands before again.
            self._session.rows(queries["desk_spare"], {"relay": self._relay, "command": command.id})
            self._settle("failed", wrong)
            return
        self._counts = Counts()
        self._counts.take({name: value for name, value in command.progress.items() if name not in _NO_COUNTS})
        self._number = int(command.progress.get("step", 0))
        self._not_before = 0.0
        topic = command.arguments.get("topic")
        if topic is not None and not self._topic_allowed(topic):
            self._settle("failed", f"topic {topic} is not on the relay's allow-list (kafka.allowed_topics)")
            return
        make = Replay if command.kind == "replay" else Release
        task = make(command, self._session, self._relay, self._intake, self._counts)
        wrong = task.problem()
        if wrong is not None:
            self._settle("failed", wrong)
            return
        self._task = task

    def _hopeless(self) -> str | None:
        if self._attempts is None or self._attempts < MANY_ATTEMPTS:
            return None
        return (
            f"{self._attempts} processes in a row ended at its next step; what it has done stays; next: dovetail stuck "
            "show tells of the message, dovetail stuck discard gives it up"
        )

    def _drop(self) -> None:
        self._command = self._task = self._end = None
        self._waits = False

    # -- its steps ----------------------------------------------------------------------------------------------------

    def next_batch(self, base: Checkpoint) -> Batch | None:
        if self._look_due:
            # Steps that follow each other closely would hide from each pulse what the operator wants now.
            self.look()
        command, task = self._command, self._task
        if command is None or task is None or self._finished or self._end or self._clock() < self._not_before:
            return None
        if not task.ready(base):
            if not self._waits:
                self._waits = True
                self._commands.progress(command.id, waits="until what was committed before it is out")
            return None
        self._waits = False
        rate = command.arguments.get("rate")
        most = self._most if rate is None else max(1, min(self._most, int(rate)))
        if self._attempts is not None:
            # Durable before a row is touched that may be what ends the process.
            self._commands.progress(command.id, attempts=self._attempts + 1)
            self._attempts = None
        work = task.step(self._number + 1, most, self._most_bytes)
        if work is None:
            self._finish()
            return None
        self._number += 1
        self._not_before = self._clock() + (0.0 if rate is None else len(work.records) / float(rate))
        self._write_plan(command, work)
        return Batch(
            work.records, base.end_lsn, base.part, base.backfill, command=CommandStep(command.id, self._number)
        )

    def _write_plan(self, command: Command, work: Work) -> None:
        self._plan = {**work.facts, "step": self._number}
        self._commands.progress(command.id, planned=self._plan, waits=None, waits_for=None)
        # A server without the marks and the plan would take the step for one that never was.
        self._on_written(self._session.written_at())

    def _settled(self) -> None:
        """No checkpoint need carry the step any longer, but each must lie behind its end, or it would be done again."""
        self._on_written(self._session.written_at())
        self._on_settled()

    def confirmed(self, step: CommandStep) -> None:
        command, task, plan = self._command, self._task, self._plan
        if command is None or task is None or plan is None or step.id != command.id:
            return
        task.committed(step.step)
        self._counts.take({name: value for name, value in plan.items() if name != "step"})
        self._commands.progress(command.id, **plan, planned=None, attempts=None)
        self._plan = None
        self._settled()

    def refused(self, places: list[Place], topics: dict[str, str]) -> None:
        if self._command is None or self._task is None:
            return
        self._plan = None
        self._number -= 1
        self._not_before = 0.0
        self._commands.progress(self._command.id, planned=None)
        self._task.refused(places, topics)

    def _finish(self) -> None:
        self._finished = True
        if self._task is None or self._task.waits():
            return
        self._settle("done", *self._task.outcome())

    def _settle(self, state: End, outcome: str, left: Mapping[str, Any] = _NOTHING_LEFT) -> None:
        if self._command is None:
            return
        facts = {name: value for name, value in self._counts.durable.items() if name != "after"}
        try:
            self._commands.settle(self._command.id, state, outcome, **facts, **left)
        except PostgresUnavailable:
            # Somebody holds the audit log; a session that is gone is noticed by the next pulse.
            self._end = (state, outcome, left)
            return
        log(LogEvent.COMMAND_SETTLED, outcome, command=self._command.id, state=state)
        self._drop()


def end_in_doubt(commands: Commands) -> None:
    """The checkpoint is lost: whether the step that a command had begun went out is known to nobody, so it ends."""
    for command in commands.active(*KINDS):
        plan = command.progress.get("planned")
        if plan:
            before, after = command.progress.get("published", 0), plan.get("published", 0)
            found = (
                "dovetail status ID tells of each, then ask again for what is missing"
                if command.kind == "replay"
                else "what the recovery finds in the topics waits no longer; dovetail stuck list shows the rest"
            )
            commands.settle(
                command.id,
                "failed",
                f"the checkpoint is lost, and with it whether the newest step went out: {before} or {after} events are "
                f"published; next: {found}",
            )
