"""Recovery after a lost slot or checkpoint: begin anew, find out what is published, publish the rest.

    rebase ─▶ admission ─▶ read_back ─▶ backfill (the reign's) ─▶ finish

`rebase` makes a new slot with its snapshot and writes both into the relay's row, with the next epoch and the horizon
from which on rows may be missing, in one statement: from then on the row says that a recovery is under way. Everything
after it may be repeated: what a crash interrupts is read back again, and goes on from where the checkpoint says. Only
when the checkpoint says that the backfill is over is the row's mark taken away, and the command settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from dovetail_relay import rebase
from dovetail_relay.config import Settings, conninfo
from dovetail_relay.desk.desk import end_in_doubt
from dovetail_relay.errors import PostgresUnavailable, ServerUnreachable
from dovetail_relay.logs import log
from dovetail_relay.nouns import Checkpoint, RelayRow, ServerFacts, TimelineSwitch
from dovetail_relay.observe import readback
from dovetail_relay.setup.slot import Blocker, NewSlot, new_slot
from dovetail_relay.source.commands import Command, Commands
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.parked import ParkedRows
from dovetail_relay.source.replication import server_error
from dovetail_relay.telemetry import LogEvent
from dovetail_schemas.sql import queries

_PROGRESS_SECONDS: Final = 1.0
# The lost timeline's events are counted all, and so many of them named.
_NAMED: Final = 1000
_SHOWN: Final = 10
# How long a walsender that was told to end may take.
_SLOT_FREE_SECONDS: Final = 5.0


class Refused(Exception):
    """The command cannot be done as it was asked for. `str()` is its outcome."""


class ToldToStop(Exception):
    """SIGTERM while something waited: what was begun is given up, and begun again by the next leader."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What admission looked at: the server, the relay's row, and what the checkpoint topic holds."""

    facts: ServerFacts
    row: RelayRow
    found: Checkpoint | None
    history: tuple[TimelineSwitch, ...]


@dataclass(frozen=True, slots=True)
class Hands:
    """What the reign lends. `aside` runs a job on the side thread and keeps the lead meanwhile; None when stopping."""

    settings: Settings
    session: LockSession
    aside: Callable[[Callable[[], Any]], Any]
    touch: Callable[[], None]
    stopping: Callable[[], bool]
    on_step: Callable[[str], None]


class Strays:
    """Events in the topics that no row has, written since the oldest row that is kept: a lost timeline's."""

    def __init__(self, since: float | None, *, wanted: bool) -> None:
        moment = datetime.fromtimestamp(since or 0.0, UTC)
        self.since = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.wanted = wanted
        self.count = 0
        self.named: list[str] = []

    def add(self, event_id: str) -> None:
        """One more; the first ones are named."""
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(event_id)


class Recovery:
    """The leader's part of `dovetail recover`."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._settings = hands.settings
        self._connection = hands.session.connection
        self._commands = Commands(hands.session, hands.settings.relay.name)
        self._said_at = 0.0
        self._blocked_by: list[str] = []

    # -- the new beginning --------------------------------------------------------------------------------------------

    def rebase(self, ground: Ground, command: Command) -> None:
        """Make the slot anew and write down where it begins. Raises Refused where an operator has to decide first."""
        row, found = ground.row, ground.found
        new_epoch = bool(command.arguments.get("new_epoch"))
        self._refuse(ground, new_epoch=new_epoch)
        # An operator who knows of another past knows more than its ids can tell.
        horizon = 0 if new_epoch else rebase.horizon(ground.facts, row, found, ground.history)
        told = not new_epoch and rebase.tells_what_is_parked(ground.facts, row, found, ground.history)
        if found is not None and told:
            # What was parked for a batch that never committed is looked at again, under the new epoch.
            ParkedRows(self._hands.session, row.name).drop_beyond(found)
        if found is None:
            end_in_doubt(self._commands)
        log(LogEvent.RECOVERY_STARTED, "making the slot anew", command=command.id, horizon=horizon, slot=row.slot)
        if ground.facts.slot_found:
            self._drop_slot(row.slot)
        self._hands.on_step("slot_dropped")
        try:
            with self._made_anew(command) as made:
                self._hands.on_step("slot_made")
                self._execute(
                    "recovery_rebase",
                    system_id=made.system_id,
                    consistent_point=made.consistent_point,
                    snapshot=made.snapshot,
                    known_epoch=0 if found is None else found.epoch,
                    horizon=horizon,
                    command=command.id,
                    judge_again=not told,
                )
        except ServerUnreachable as error:
            raise PostgresUnavailable(str(error)) from error
        self._hands.on_step("rebased")

    def _made_anew(self, command: Command) -> AbstractContextManager[NewSlot]:
        return new_slot(self._settings, self._connection, self._on_wait(command.id))

    def _refuse(self, ground: Ground, *, new_epoch: bool) -> None:
        facts, row = ground.facts, ground.row
        if self._settings.outbox.foreign:
            raise Refused(
                f"the rows of {self._settings.outbox.table} carry no transaction ids: nobody can say which were lost; "
                "next: give the relay a new name, dovetail init, and publish from the table what is missing"
            )
        diverged = rebase.divergence(facts, row, ground.found, ground.history)
        if diverged is not None and not new_epoch:
            raise Refused(f"{diverged}: events of the lost past are published; next: dovetail recover --new-epoch")
        ours = facts.slot_plugin == "pgoutput" and facts.slot_database == facts.database
        if facts.slot_found and not ours:
            raise Refused(
                f"slot {row.slot!r} is somebody else's ({facts.slot_plugin or 'physical'}, "
                f"{facts.slot_database or 'no database'}); next: SELECT pg_drop_replication_slot('{row.slot}') "
                "if nobody needs it"
            )

    def _drop_slot(self, slot: str) -> None:
        deadline = time.monotonic() + _SLOT_FREE_SECONDS
        while True:
            try:
                self._connection.execute(queries["recovery_drop_slot"], {"slot": slot})
                return
            except psycopg.errors.UndefinedObject:
                return  # one that was never finished goes with the session that was making it
            except psycopg.errors.ObjectInUse as error:
                # The lock is ours, so whoever streams is a zombie.
                self._hands.session.free_slot()
                self._hands.touch()
                if time.monotonic() > deadline:
                    raise server_error(error, f"dropping slot {slot!r}") from error
            except psycopg.Error as error:
                raise server_error(error, f"dropping slot {slot!r}") from error

    def _on_wait(self, command_id: int) -> Callable[[list[Blocker]], None]:
        def tell(blockers: list[Blocker]) -> None:
            self._hands.touch()
            if self._hands.stopping():
                raise ToldToStop
            lines = [blocker.line() for blocker in blockers]
            if lines != self._blocked_by:
                self._blocked_by = lines
                log(LogEvent.RETRYING, f"the new slot waits for open transactions: {'; '.join(lines) or 'unknown'}")
                self._commands.progress(command_id, waits_for="; ".join(lines) or None)

        return tell

    # -- what is published --------------------------------------------------------------------------------------------

    def read_back(self, row: RelayRow) -> bool:
        """Note the ids of all events that are in the topics already. False when told to stop before the end."""
        self._execute("recovery_forget")
        found = self._hands.aside(lambda: self._ask("recovery_candidates", row))
        if found is None:
            return False
        strays = Strays(found["since"], wanted=self._may_have_strays(row))
        read = 0
        sightings = self._sightings(found)
        while found["sought"] and (seen := self._next(sightings)) is not None:
            if self._hands.stopping():
                return False
            if seen:
                self._note(seen, strays)
                read += len(seen)
            self._tell(row, phase="reading the topics", read=read)
        self._execute("recovery_doubt")
        if not self._again(row, found["aggregatetypes"] or ()):
            return False
        missing = self._hands.aside(lambda: self._ask("recovery_missing", row))
        if missing is None:
            return False
        facts: dict[str, object] = {"phase": "publishing", "read": read, "rows": found["rows"]}
        if strays.wanted:
            facts |= {"phantoms": strays.count, "phantom_ids": strays.named}
        self._tell(row, now=True, missing=missing["missing"], waits_for=None, **facts)
        self._hands.on_step("read_back")
        return True

    def _sightings(self, found: dict[str, Any]) -> Iterator[list[readback.Sighting]]:
        recorded = self._hands.session.partition_counts()
        topics = readback.topics_of_rows(self._settings, found["aggregatetypes"] or (), recorded)
        return readback.published(self._settings, topics, found["since"])

    def publishing(self, row: RelayRow, published: int) -> None:
        """Now and then during the backfill."""
        self._tell(row, published=published)

    def finish(self, row: RelayRow) -> None:
        """The checkpoint says that the backfill is over: take the mark away and settle the command."""
        self._hands.on_step("backfilled")
        command = next((one for one in self._commands.active("recover") if one.id == row.recovery_command), None)
        progress = {} if command is None else dict(command.progress)
        ((stuck,),) = self._execute("recovery_stuck", epoch=row.epoch)
        if stuck:
            progress["stuck"] = stuck
        outcome = _outcome(progress, row)
        try:
            with self._connection.transaction():
                self._execute("recovery_over")
                self._execute("recovery_keys_over")
                self._execute("recovery_forget")
                if row.recovery_command is not None:
                    self._commands.settle(row.recovery_command, "done", outcome, **{**progress, "phase": "over"})
        except psycopg.Error as error:
            raise self._hands.session.refusal(error, "ending the recovery") from error
        log(LogEvent.RECOVERY_FINISHED, outcome, command=row.recovery_command, epoch=row.epoch)

    def _again(self, row: RelayRow, aggregatetypes: Collection[str]) -> bool:
        """What goes out again in compacted topics, behind an older event of its key. False when told to stop."""
        by_topic = self._read(lambda: self._in_compacted(aggregatetypes))
        for types in (by_topic or {}).values():
            if self._hands.aside(partial(self._ask, "recovery_keys", row, aggregatetypes=types)) is None:
                return False
        if by_topic:
            self._execute("recovery_again")
        return by_topic is not None

    def _in_compacted(self, aggregatetypes: Collection[str]) -> dict[str, list[str]]:
        return readback.compacted(self._settings, aggregatetypes)

    def _next(self, sightings: Any) -> list[readback.Sighting] | None:
        return self._read(lambda: next(sightings, None))  # type: ignore[no-any-return]

    def _read(self, job: Callable[[], Any]) -> Any:
        try:
            return self._hands.aside(job)
        except ServerUnreachable as error:
            raise PostgresUnavailable(str(error)) from error

    def _note(self, seen: list[readback.Sighting], strays: Strays) -> None:
        ids = [sighting.event_id for sighting in seen]
        young = {str(sighting.event_id) for sighting in seen if sighting.time >= strays.since}
        for (event_id,) in self._execute("recovery_note", ids=ids, strays=strays.wanted):
            if event_id in young:
                strays.add(event_id)

    def _may_have_strays(self, row: RelayRow) -> bool:
        """Whether an event without a row means that its row was lost: logical messages never have one."""
        return not row.recovery_horizon and not self._settings.outbox.messages

    def _tell(self, row: RelayRow, *, now: bool = False, **facts: object) -> None:
        if row.recovery_command is not None and (now or time.monotonic() - self._said_at >= _PROGRESS_SECONDS):
            self._said_at = time.monotonic()
            self._commands.progress(row.recovery_command, **facts)

    def _ask(self, query: str, row: RelayRow, **more: object) -> dict[str, Any]:
        """A question that takes its time, over a connection of its own: for the side thread."""
        params = {"relay": row.name, "horizon": row.recovery_horizon or 0, "snapshot": row.snapshot, **more}
        try:
            with psycopg.connect(conninfo(self._settings, "relay")) as connection:
                cursor = connection.cursor(row_factory=dict_row)
                cursor.execute(queries[query], params)
                return (cursor.fetchone() or {}) if cursor.description else {}
        except psycopg.Error as error:
            raise server_error(error, "reading the outbox") from error

    def _execute(self, query: str, **params: object) -> list[tuple[Any, ...]]:
        try:
            cursor = self._connection.execute(queries[query], {"relay": self._settings.relay.name, **params})
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise self._hands.session.refusal(error, query) from error


def _outcome(progress: dict[str, Any], row: RelayRow) -> str:
    """One line: what was published, and what nobody can take back."""
    if "missing" not in progress:
        return f"recovered, in epoch {row.epoch}"
    stuck = progress.get("stuck", 0)
    missing, rows = progress["missing"] - stuck, progress.get("rows")
    said = f"published {missing} missing of {rows} rows looked at, in epoch {row.epoch}"
    if stuck:
        said += f"; {stuck} more could not go out or wait behind one: dovetail stuck list"
    count, ids = progress.get("phantoms"), progress.get("phantom_ids") or []
    if not count:
        return said
    shown = ", ".join(ids[:_SHOWN]) + (", …" if count > _SHOWN else "")
    return f"{said}; {count} events in the topics have no row here and cannot be unpublished: {shown}"
