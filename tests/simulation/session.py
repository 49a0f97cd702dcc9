"""The leader's lock session, and the two things that happen to it: another leads, or the process dies in mid-sentence.

`Killed` strikes before or after any single statement, so whatever the relay does in more than one of them is done by
halves now and then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from simulation.stored import Found
from simulation.tables import NAME_OF

from dovetail_relay.errors import LeadLost
from dovetail_relay.nouns import Lsn, parse_lsn
from dovetail_schemas.sql import queries

if TYPE_CHECKING:
    from simulation.relay import Relay
    from simulation.world import World

# What changes something: only around these does it matter when the process dies.
_READS = frozenset(
    (
        "parked_held",
        "parked_standing",
        "parked_counts",
        "parked_topics",
        "parked_written_at",
        "desk_queue",
        "desk_condemned",
        "desk_standing",
        "desk_absent",
        "recovery_stuck",
        "command_active",
    )
)

# Statements about the search for poison.
NOTES = frozenset(("relay_began", "relay_suspects", "relay_lived", "relay_acquitted"))
_OFTEN = frozenset(("desk_let_go", "desk_mark", "command_progress", "relay_suspects"))


class Killed(BaseException):
    """kill -9, or a library's crash: no handler of the relay sees it.

    `row`: by which, and whether a command's step was being made.
    """

    def __init__(self, row: int | None = None, *, at_desk: bool = False) -> None:
        super().__init__()
        self.row, self.at_desk = row, at_desk


class Session:
    """`LockSession` and its connection, as far as the relay's rooms use them."""

    def __init__(self, relay: Relay, world: World) -> None:
        self._relay = relay
        self._world = world
        self._tables = world.database.tables
        self._whole = False

    @property
    def connection(self) -> Session:
        return self

    def refusal(self, error: Exception, _what: str) -> Exception:
        """Nothing here speaks in psycopg's errors."""
        return error

    def rows(self, query: str, params: Mapping[str, Any]) -> Found:
        """One statement. The server refuses it where the session has ended."""
        self._look()
        name = NAME_OF[query]
        if name == "desk_let_go" and self._world.changes.ambush(params):
            raise Killed
        if name in _READS or self._whole:
            return self._tables.run(name, params)
        self._strike(name)
        self._tables.judge(name, params)
        found = self._tables.run(name, params)
        if name in NOTES:
            self._world.poison.noted(self._relay, name, params)
        self._strike(name)
        return found

    def written_at(self) -> Lsn:
        return parse_lsn(self.rows(queries["parked_written_at"], {})[0]["lsn"])

    def _strike(self, name: str) -> None:
        # What a step means in the database is where it matters most.
        likely = 5.0 if name in _OFTEN else 1.0
        world = self._world
        if world.deadly and not self._whole and world.strikes(name, likely, aside=name in NOTES):
            raise Killed

    def execute(self, query: str, params: Mapping[str, Any]) -> Cursor:
        cursor = Cursor(self)
        cursor.execute(query, params)
        return cursor

    def partition_counts(self) -> dict[str, int]:
        self._look()
        return dict(self._tables.ground.counts)

    def publication_fingerprint(self, publication: str) -> str | None:
        del publication
        self._look()
        return self._tables.ground.publication

    def audit_head(self, known: object) -> None:
        """Nobody writes an audit log here."""
        del known

    def _look(self) -> None:
        if not self._relay.leads:
            raise LeadLost("the lock session is gone")

    @contextmanager
    def cursor(self, row_factory: object = None) -> Iterator[Cursor]:
        del row_factory
        yield Cursor(self)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: it is struck before or after, and not within."""
        if self._whole:
            yield
            return
        self._strike("transaction")
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        self._strike("transaction")


class Cursor:
    description = True

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: Found = []

    def execute(self, query: str, params: Mapping[str, Any]) -> None:
        if isinstance(params.get("progress"), str):
            params = {**params, "progress": json.loads(params["progress"])}
        self._found = self._session.rows(query, params)

    def executemany(self, query: str, many: Sequence[Mapping[str, Any]]) -> None:
        for params in many:
            self._session.rows(query, params)

    def fetchall(self) -> Found:
        return self._found
