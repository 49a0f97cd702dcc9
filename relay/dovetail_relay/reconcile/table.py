"""PostgreSQL's side: what the outbox and the parked rows add up to, and their ids where it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from dovetail_relay.config import Settings
from dovetail_relay.errors import ConfigInvalid, Misconfigured, StuckMessage
from dovetail_relay.nouns import Checkpoint, Sum
from dovetail_relay.observe.database import horizon_of
from dovetail_relay.observe.trace import topic_of
from dovetail_relay.reconcile.sums import HOUR, Added, Slice, put
from dovetail_relay.reconcile.window import Window
from dovetail_relay.setup.connect import Session, one, rows
from dovetail_schemas.sql import queries

# What has no route: such rows are parked, or the relay stands before them.
NO_TOPIC: Final = "?"
_AT_ONCE: Final = 5000


class Row(NamedTuple):
    """What is known of an event by its id. `found` is False where the outbox has no such row."""

    id: UUID
    aggregatetype: str | None
    aggregateid: str | None
    type: str | None
    created_at: datetime | None
    found: bool
    state: str | None


class Table:
    """One session. `topics` None: all; else only rows whose route leads to one of them."""

    def __init__(
        self, session: Session, settings: Settings, checkpoint: Checkpoint, topics: frozenset[str] | None
    ) -> None:
        self._session = session
        self._settings = settings
        self._topics = topics
        self._topic_of: dict[str, str] = {}
        session.execute(queries["reconcile_guard"])
        relay = one(session, queries["relay_row"], {"relay": settings.relay.name})
        if relay is None:
            raise Misconfigured(f"database has no relay {settings.relay.name!r}", remedy="dovetail init")
        self.horizon = 0 if checkpoint.backfill is not None else horizon_of(checkpoint, relay["snapshot"])

    def now(self) -> float:
        """Seconds since 1970 by the database's clock."""
        found = one(self._session, queries["reconcile_now"])
        assert found is not None  # noqa: S101 - the statement always answers with one row
        return float(found["now"])

    def add_up(self, window: Window, added: Added, on_hour: Callable[[int], None]) -> None:
        """Fill the table's sides. By the hour: no statement holds a snapshot for long."""
        for start in range(window.start, window.end, HOUR):
            on_hour(start)
            span = {"start": start, "end": min(start + HOUR, window.end)}
            for row in rows(self._session, queries["reconcile_sums"], {**span, "horizon": self.horizon}):
                self._put(added.settled if row["settled"] else added.young, row)
            for row in rows(
                self._session, queries["reconcile_parked_sums"], {**span, "relay": self._settings.relay.name}
            ):
                self._put(added.parked, row)
                if (topic := self._topic(row["aggregatetype"])) is not None:
                    added.states[topic, row["minute"], row["state"]] = row["events"]

    def ids(self, wanted: Slice) -> Iterator[tuple[bytes, str, bool]]:
        """(id, topic, settled) of each row of some minutes."""
        for start, end in wanted.spans():
            with self._session.transaction(), self._session.cursor("dovetail_reconcile") as cursor:
                cursor.itersize = _AT_ONCE
                cursor.execute(queries["reconcile_ids"], {"start": start, "end": end, "horizon": self.horizon})
                for row in cursor:
                    topic = self._topic(row["aggregatetype"])
                    if topic is not None:
                        yield bytes(row["id"]), topic, row["settled"]

    def parked(self, window: Window, most: int) -> Iterator[tuple[UUID, str, str, str, datetime]]:
        """(id, topic, type, state, created at) of the first rows that were passed over."""
        given = {"start": window.start, "end": window.end, "relay": self._settings.relay.name, "most": most}
        for row in rows(self._session, queries["reconcile_parked"], given):
            topic = self._topic(row["aggregatetype"])
            if topic is not None:
                yield row["id"], topic, row["type"], row["state"], row["created_at"]

    def known(self, ids: Sequence[bytes]) -> Iterator[Row]:
        """What there is now of some events, in no order."""
        for at in range(0, len(ids), _AT_ONCE):
            given: dict[str, Any] = {
                "ids": [UUID(bytes=one_id) for one_id in ids[at : at + _AT_ONCE]],
                "relay": self._settings.relay.name,
            }
            for row in rows(self._session, queries["reconcile_rows"], given):
                yield Row(**row)

    def topic(self, aggregatetype: str) -> str:
        """Where rows of this type go, or `NO_TOPIC`."""
        found = self._topic_of.get(aggregatetype)
        if found is None:
            try:
                found = topic_of(self._settings, aggregatetype, "")
            except (StuckMessage, ConfigInvalid):
                found = NO_TOPIC
            self._topic_of[aggregatetype] = found
        return found

    def _topic(self, aggregatetype: str) -> str | None:
        topic = self.topic(aggregatetype)
        return topic if self._topics is None or topic in self._topics else None

    def _put(self, side: dict[tuple[str, int], Sum], row: dict[str, Any]) -> None:
        topic = self._topic(row["aggregatetype"])
        if topic is not None:
            put(side, topic, row["minute"], Sum(row["events"], int(row["ids"], 2)))
