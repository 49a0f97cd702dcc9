"""The ring: nine day-leaves of the outbox, and when one of them is emptied.

An event goes into the leaf `day % 9`, so the leaf of tomorrow must be empty by then. A leaf is emptied by TRUNCATE once
its day lies beyond the replay window and each transaction that wrote into it is published. The second is known without
reading a row. For the blink in which a SHARE lock is held nobody is writing into the leaf: whoever did is over, and
below the snapshot's xmax of that moment. Once the durable checkpoint's horizon has come that far, all of them are
settled at or before its `end_lsn`. What came later is looked for before the leaf goes, where it can only be.

No lock is ever waited for: a writer, a prepared transaction, a dump or a vacuum on the leaf means "later". So nobody is
held up, but for those who come to this leaf in the moment that the TRUNCATE takes. A relay that has lost the lead does
no harm here: the checkpoint that it knows is older, so it is only more cautious.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from dovetail_relay.logs import log
from dovetail_relay.telemetry import LogEvent
from dovetail_schemas.sql import queries

LEAVES: Final = 9
DAY: Final = 86_400
# Rows that are deleted at a time: nobody is to wait for the locks of many.
_AT_ONCE: Final = 5000

Session = psycopg.Connection[DictRow]


class Now(NamedTuple):
    """The day since 1970 by the database's clock, and how many seconds of it are over."""

    today: int
    second_of_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the outbox holds after a look. `oldest_day` is None when it holds nothing."""

    oldest_day: int | None
    overdue_seconds: float
    emptied: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Closed:
    """A leaf at a moment when nobody was writing into it."""

    above: int
    lsn: str
    pages: int


class Ring:
    """Keeps the leaves of one reign. Not thread-safe. Raises psycopg.Error where the server does not answer."""

    def __init__(self, *, relay: str, retention_days: int) -> None:
        self._relay = relay
        self._retention_days = retention_days
        self._closed: dict[int, _Closed] = {}
        self._waits: dict[int, str] = {}

    def tend(self, session: Session, settled: int, now: Now, used: set[int]) -> Kept:
        """Empty what may go. `settled` is below what the durable checkpoint vouches for, `used` are leaves with rows.

        It takes two looks: one closes a leaf, a later one empties it.
        """
        emptied = []
        for day in range(now.today - LEAVES + 1, now.today - self._retention_days):
            if day % LEAVES in used and self._let_go(session, day, settled):
                used = used - {day % LEAVES}
                emptied.append(day)
        days = [day for day in range(now.today - LEAVES + 1, now.today + 1) if day % LEAVES in used]
        overdue = (now.today + 1) % LEAVES in used
        return Kept(min(days, default=None), now.second_of_day if overdue else 0.0, tuple(emptied))

    def forget(self, session: Session, now: Now) -> bool:
        """Remove settled stuck messages and commands beyond the window; False while there are more of them."""
        given = {
            "relay": self._relay,
            "before": (now.today - self._retention_days - 1) * DAY,
            "most": _AT_ONCE,
        }
        names = ("ring_forget_parked", "ring_forget_command_events", "ring_forget_commands")
        return max(session.execute(queries[name], given).rowcount for name in names) < _AT_ONCE

    def _let_go(self, session: Session, day: int, settled: int) -> bool:
        leaf = sql.Identifier("dovetail", f"outbox_{day % LEAVES}")
        try:
            why = self._empty(session, leaf, day, settled)
        except psycopg.errors.LockNotAvailable:
            why = "somebody works on it, or a prepared transaction has written into it"
        except psycopg.errors.QueryCanceled:
            why = "looking at it took too long"
        if why is None:
            self._closed.pop(day, None)
            self._waits.pop(day, None)
            log(LogEvent.LEAF_EMPTIED, "emptied a day of the outbox", leaf=f"outbox_{day % LEAVES}", day=_date(day))
            return True
        if self._waits.get(day) != why:
            self._waits[day] = why
            log(LogEvent.LEAF_WAITS, f"a day of the outbox is not emptied yet: {why}", day=_date(day))
        return False

    def _empty(self, session: Session, leaf: sql.Identifier, day: int, settled: int) -> str | None:
        """None when the leaf is empty now, else what it waits for."""
        closed = self._closed.get(day)
        if closed is None:
            closed = self._closed[day] = _close(session, leaf)
        if settled < closed.above:
            return "a transaction that may have written into it is not settled below the checkpoint"
        why = self._objection(session, leaf, day, closed)
        if why is None:
            with session.transaction():
                session.execute(queries["ring_quickly"])
                session.execute(sql.SQL(queries["ring_lock_empty"]).format(leaf=leaf))
                why = self._objection(session, leaf, day, closed)
                if why is None:
                    session.execute(sql.SQL(queries["ring_empty"]).format(leaf=leaf))
        return why

    def _objection(self, session: Session, leaf: sql.Identifier, day: int, closed: _Closed) -> str | None:
        found = session.execute(
            sql.SQL(queries["ring_objections"]).format(leaf=leaf),
            {
                "tail": f"({max(0, closed.pages - 1)},0)",
                "above": closed.above,
                # A transaction writes into the leaf of the day on which it began: rows of the next day are its too.
                "young": (day + 2) * DAY,
                "absurd": (day + 2 * LEAVES) * DAY,
                "relay": self._relay,
                "lsn": closed.lsn,
            },
        ).fetchone()
        assert found is not None  # noqa: S101 - the statement always answers with one row
        if found["late"]:
            # Somebody who began days ago has written into it after all: close it anew.
            del self._closed[day]
            return "a transaction that began days ago has written into it just now"
        if found["young"]:
            return "it holds rows of a later day, which are still in the window"
        return "another relay of this outbox has not come as far" if found["behind"] else None


def look(session: Session) -> tuple[Now, set[int]]:
    """The database's day, and the leaves that hold rows."""
    session.execute(queries["ring_guard"])
    found = session.execute(queries["ring_leaves"]).fetchone()
    assert found is not None  # noqa: S101 - the statement always answers with one row
    return Now(found["today"], found["second_of_day"]), set(found["used"])


def open_session(conninfo: str) -> Session:
    """A short session of the housekeeping's own."""
    session = Session.connect(conninfo, autocommit=True, row_factory=dict_row)
    # Whatever the role's default is: what is looked at under a lock must be what is there then.
    session.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return session


def _close(session: Session, leaf: sql.Identifier) -> _Closed:
    with session.transaction():
        session.execute(sql.SQL(queries["ring_lock_closed"]).format(leaf=leaf))
        found = session.execute(queries["ring_close"], {"leaf": leaf.as_string(session)}).fetchone()
    assert found is not None  # noqa: S101 - the statement always answers with one row
    return _Closed(found["above"], found["lsn"], found["pages"])


def _date(day: int) -> str:
    """2026-01-31, for a day since 1970."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
