"""The operator's commands as the leader meets them: rows of `dovetail.command`, over the lock session.

An operator inserts a row and may change what they want of it; the leader takes it up, says how far it has come, and
settles it once. The leader writes over its lock session only, so a command takes effect under the lock, and who has
lost the lock can settle nothing. What was asked for is in the audit log before, what came of it after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import psycopg
from psycopg.rows import dict_row

from dovetail_relay.source.lead import LockSession
from dovetail_schemas.sql import queries

Kind = Literal["release", "discard", "replay", "recover", "accept"]
End = Literal["done", "failed", "withdrawn"]

# A halted relay does these; the others are for one that streams.
FOR_HALTED: Final[tuple[Kind, ...]] = ("accept", "recover")


@dataclass(frozen=True, slots=True)
class Command:
    """One row. `wanted` is the operator's word, `state` and `progress` the relay's."""

    id: int
    kind: Kind
    arguments: Mapping[str, Any]
    reason: str | None
    actor: str
    created_at: datetime
    wanted: str
    state: str
    progress: Mapping[str, Any]
    outcome: str | None
    settled_at: datetime | None

    @property
    def settled(self) -> bool:
        """Whether the relay is through with it, or it was withdrawn."""
        return self.settled_at is not None


def audit(
    connection: psycopg.Connection[Any],
    action: str,
    target: str,
    *,
    reason: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """One entry of the audit log, in the caller's transaction: who and when are the database's word."""
    connection.execute(
        queries["command_audit"],
        {
            "action": action,
            "target": target,
            "reason": reason,
            "before": None if before is None else json.dumps(before, default=str),
            "after": None if after is None else json.dumps(after, default=str),
        },
    )


class Commands:
    """The commands of one relay. Not thread-safe: it works on the leader's lock session."""

    def __init__(self, session: LockSession, relay: str) -> None:
        self._connection = session.connection
        self._refusal = session.refusal
        self._relay = relay

    def active(self, *kinds: Kind) -> list[Command]:
        """Those that are not settled, oldest first."""
        return [
            Command(**row)
            for row in self._rows(queries["command_active"], {"relay": self._relay, "kinds": list(kinds)})
        ]

    def take(self, command: Command) -> bool:
        """Begin. False where it was withdrawn meanwhile. One that runs already is taken again, after a crash."""
        return bool(self._rows(queries["command_take"], {"id": command.id}))

    def progress(self, command_id: int, **facts: object) -> None:
        """How far it has come, for whoever follows it."""
        self._rows(queries["command_progress"], {"id": command_id, "progress": json.dumps(facts, default=str)})

    def settle(self, command_id: int, state: End, outcome: str, **facts: object) -> bool:
        """The end, and its entry in the audit log, in one transaction. False where it was settled before.

        Raises PostgresUnavailable where somebody holds the audit log: the caller comes again.
        """
        try:
            with self._connection.transaction():
                self._ask(queries["command_patience"], {})
                found = self._ask(
                    queries["command_settle"],
                    {
                        "id": command_id,
                        "state": state,
                        "outcome": " ".join(outcome.split()),
                        "progress": json.dumps(facts, default=str),
                    },
                )
                for row in found:
                    after = {"command": command_id, "actor": row["actor"], "state": state, "outcome": outcome, **facts}
                    audit(
                        self._connection, f"{row['kind']}.{state}", f"relay {self._relay}", reason=row["reason"],
                        after=after,
                    )  # fmt: skip
        except psycopg.Error as error:
            raise self._refusal(error, f"settling command {command_id}") from error
        return bool(found)

    def _rows(self, query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return self._ask(query, params)
        except psycopg.Error as error:
            raise self._refusal(error, "dovetail.command") from error

    def _ask(self, query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else []
