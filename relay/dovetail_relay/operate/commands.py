"""Ask the relay for something by a row of `dovetail.command`, and follow what becomes of it.

    command = submit(settings, "recover", {"new_epoch": False}, reason="the slot was dropped by hand")
    end = follow(settings, command.id, say)

The row is written as the operator's own role, together with its entry in the audit log, before anything happens. The
relay settles it and writes the second entry. Whoever follows may go at any time: the command goes on without them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from psycopg import errors as pg

from dovetail_relay.config import Settings
from dovetail_relay.errors import ServerUnreachable
from dovetail_relay.observe.facts import TYPED, next_of
from dovetail_relay.observe.process import look
from dovetail_relay.operate.problems import CommandUnderWay
from dovetail_relay.setup.connect import Session, one, rows, session
from dovetail_relay.source.commands import FOR_HALTED, Command, Kind, audit
from dovetail_relay.source.lead import lock_key
from dovetail_schemas.sql import queries

Say = Callable[[str], None]

_LOOK_SECONDS: Final = 0.3
# A halted relay looks for commands every 5 s, and a leader's death is noticed within a lease of 10 s.
_PATIENCE_SECONDS: Final = 12.0


def submit(
    settings: Settings,
    kind: Kind,
    arguments: Mapping[str, Any],
    *,
    reason: str | None,
    before: Mapping[str, Any] | None = None,
    also: Callable[[Session, Command], None] = lambda _connection, _command: None,
) -> Command:
    """Write the command and its entry in the audit log. `before` goes into the entry: what was there.

    `also` writes what belongs to the command, in its transaction. Raises CommandUnderWay where one of its class is not
    settled.
    """
    relay = settings.relay.name
    with session(settings, "operator") as connection:
        try:
            with connection.transaction():
                made = one(
                    connection,
                    queries["command_submit"],
                    {"relay": relay, "kind": kind, "arguments": json.dumps(arguments), "reason": reason},
                )
                command = find(connection, (made or {})["id"])
                also(connection, command)
                audit(
                    connection, f"{kind}.asked", f"relay {relay}", reason=reason, before=before,
                    after={"command": command.id, "arguments": arguments},
                )  # fmt: skip
        except pg.UniqueViolation:
            raise _under_way(connection, relay, kind) from None
    return command


def active(settings: Settings, *kinds: Kind) -> Command | None:
    """The oldest command of these kinds that is not settled."""
    with session(settings, "operator") as connection:
        found = rows(connection, queries["command_active"], {"relay": settings.relay.name, "kinds": list(kinds)})
    return Command(**found[0]) if found else None


def last(settings: Settings, kind: Kind) -> Command | None:
    """The newest command of this kind, whatever became of it."""
    with session(settings, "operator") as connection:
        found = one(connection, queries["command_last"], {"relay": settings.relay.name, "kind": kind})
    return None if found is None else Command(**found)


def find(connection: Session, command_id: int) -> Command:
    """One command. Raises LookupError where there is none of this number."""
    row = one(connection, queries["command_row"], {"id": command_id})
    if row is None:
        raise LookupError(f"there is no command {command_id}")
    return Command(**row)


def want(settings: Settings, command: Command, wanted: str, reason: str | None = None) -> str | None:
    """Tell the relay `pause`, `run` or `withdraw`, with an audit entry. The state then, None where it is settled."""
    with session(settings, "operator") as connection, connection.transaction():
        row = one(connection, queries["command_want"], {"id": command.id, "wanted": wanted})
        if row is not None:
            audit(
                connection, f"{command.kind}.{wanted}", f"relay {settings.relay.name}", reason=reason,
                after={"command": command.id, "actor": command.actor, "state": row["state"]},
            )  # fmt: skip
    return None if row is None else str(row["state"])


def withdraw(settings: Settings, command: Command, reason: str | None) -> None:
    """Tell the relay to end it; what was done stays. Raises CommandUnderWay where it goes to its end all the same."""
    if command.kind in FOR_HALTED and (
        command.state != "pending" or want(settings, command, "withdraw", reason) != "withdrawn"
    ):
        raise CommandUnderWay(
            f"command {command.id} ({command.kind}) has begun and goes to its end",
            remedy=f"{TYPED[command.kind]} --follow",
        )
    if command.kind not in FOR_HALTED:
        want(settings, command, "withdraw", reason)


def follow(
    settings: Settings,
    command_id: int,
    say: Say,
    *,
    pausable: bool = False,
    show: Callable[[Command], None] | None = None,
) -> Command:
    """Say what happens until the command is settled or paused, and return it as it is then.

    `show` is called with it at each look while it runs, instead of its counts being said.

    Ctrl-C withdraws a command that no relay has taken up, asks a running one to pause where it is `pausable`, says what
    it did, and goes on as KeyboardInterrupt.
    """
    watch = _Watch(settings, command_id, say, show)
    try:
        while True:
            try:
                with session(settings, "operator") as connection:
                    return watch.until_its_end(connection)
            except ServerUnreachable as error:
                watch.once("unreachable", f"{error}; command {command_id} stays")
                time.sleep(_LOOK_SECONDS)  # until it answers, or Ctrl-C
    except KeyboardInterrupt:
        _let_go(settings, command_id, say, pausable=pausable)
        raise


class _Watch:
    """Looks at a command again and again, and says what is new."""

    def __init__(self, settings: Settings, command_id: int, say: Say, show: Callable[[Command], None] | None) -> None:
        self._show = show or self._say_counts
        self._relay = settings.relay
        self._lead = lock_key("lead", settings.relay.slot)
        self._id = command_id
        self._say = say
        self._said: object = None
        self._alone_since = self._asked_at = time.monotonic()

    def until_its_end(self, connection: Session) -> Command:
        """The command once it is settled or paused."""
        while True:
            command = find(connection, self._id)
            if command.settled or (command.state, command.wanted) == ("paused", "pause"):
                self._show(command)
                return command
            led = self._led(connection)
            if command.state in {"pending", "paused"} or not led:
                self._waiting(command.kind, leads=led)
            else:
                self._show(command)
            time.sleep(_LOOK_SECONDS)  # progress is a row: the relay calls nobody for it

    def _say_counts(self, command: Command) -> None:
        if command.settled:
            return
        shown = {name: value for name, value in command.progress.items() if isinstance(value, str | int)}
        facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
        self.once((command.state, facts), f"command {self._id} {command.state}" + (f": {facts}" if facts else ""))

    def _waiting(self, kind: Kind, *, leads: bool) -> None:
        now = time.monotonic()
        if now - self._asked_at > _PATIENCE_SECONDS:
            self._asked_at = now
            if kind not in FOR_HALTED and (halted := self._halted()) is not None:
                self.once("halted", halted)
        if self._said == "halted":
            return  # it comes back to the lead for moments only
        if leads:
            self.once("pending", f"command {self._id} waits for the relay")
        elif now - self._alone_since > _PATIENCE_SECONDS:
            self.once("nobody", f"no relay leads: command {self._id} waits for one; next: dovetail relay run")
        elif self._said is None:
            self.once("alone", f"command {self._id} waits: no relay leads just now; a halted one looks every 5 s")

    def _led(self, connection: Session) -> bool:
        leads = one(connection, queries["relay_lead_holder"], {"key": self._lead}) is not None
        if leads:
            self._alone_since = time.monotonic()
        return leads

    def _halted(self) -> str | None:
        """The halt that the relay's process names, where it is in one: another relay would halt as well."""
        relay = self._relay
        process = look(relay.http_host, relay.http_port, relay.name, relay.slot)
        if process is None or not process.halted:
            return None
        then = process.next or "dovetail status"
        return f"the relay has halted ({process.reason}): command {self._id} waits for it; next: {then}"

    def once(self, key: object, text: str) -> None:
        """Say it unless it was the last thing said."""
        if key != self._said:
            self._said = key
            self._say(text)


def _let_go(settings: Settings, command_id: int, say: Say, *, pausable: bool) -> None:
    with session(settings, "operator") as connection:
        command = find(connection, command_id)
    if command.state == "pending" and want(settings, command, "withdraw", "interrupted") == "withdrawn":
        say(f"command {command_id} withdrawn; nothing was done")
    elif pausable and want(settings, command, "pause", "interrupted") is not None:
        say(f"command {command_id} asked to pause; next: the same command with --follow")
    else:
        say(f"command {command_id} goes on without you; next: the same command with --follow")


def _under_way(connection: Session, relay: str, kind: Kind) -> CommandUnderWay:
    kinds = [kind] if kind in FOR_HALTED else ["release", "discard", "replay"]
    found = rows(connection, queries["command_active"], {"relay": relay, "kinds": kinds})
    if not found:
        return CommandUnderWay("another command was under way, and has ended by now", remedy="the same command again")
    other = Command(**found[0])
    since = other.created_at.isoformat(timespec="seconds")
    return CommandUnderWay(
        f"command {other.id} ({other.kind}) of {other.actor}, {other.state} since {since}, comes first",
        remedy=next_of(other.kind, other.state),
    )
