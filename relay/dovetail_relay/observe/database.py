"""PostgreSQL's side: short read-only statements in autocommit, so that nothing is held and no xmin is pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from dovetail_relay.config import Role, Settings
from dovetail_relay.nouns import Checkpoint, Lsn, parse_lsn
from dovetail_relay.observe.facts import DatabaseSide, Leader, Rows, Slot, Stuck, Underway
from dovetail_relay.observe.held import Held
from dovetail_relay.retention import LEAVES
from dovetail_relay.setup.connect import Session, one, rows, session
from dovetail_relay.source.lead import lock_key
from dovetail_schemas.sql import queries

STATEMENT_MS: Final = 5000
# Beyond this nobody needs the exact number, and counting on would only read more of the table.
COUNTED_MOST: Final = 100_000

_OURS: Final = "dovetail.outbox"

# No such schema or table: init has not run here.
_NOT_THERE: Final = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
_NOT_OUR_SHAPE: Final = (*_NOT_THERE, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)


class OutboxRow(NamedTuple):
    """One row of the outbox without its payload; None where a table of another shape has no such column."""

    id: UUID
    aggregatetype: str
    aggregateid: str
    type: str
    created_at: datetime | None
    payload_bytes: int | None
    bucket: int | None
    xid: int | None


class Taken(NamedTuple):
    """An inbox row: which consumer took the event, and when."""

    consumer: str
    received_at: datetime


def role_of(settings: Settings) -> Role:
    """The operator's role where it has a DSN, else the relay's."""
    return "operator" if settings.postgres.operator_dsn is not None else "relay"


@contextmanager
def looking(settings: Settings) -> Iterator[Session]:
    """A session that can only read, and only briefly. Raises what `setup.connect.session` raises."""
    with session(settings, role_of(settings)) as connection:
        connection.execute(queries["observe_guard"], {"statement_ms": STATEMENT_MS})
        yield connection


def look(connection: Session, settings: Settings, checkpoint: Checkpoint | None) -> DatabaseSide:
    """All of PostgreSQL's side. The checkpoint comes from Kafka, where it answered and has one."""
    problems: list[str] = []
    server = one(connection, queries["observe_server"])
    assert server is not None  # noqa: S101 - the statement always answers with one row
    slot = one(connection, queries["observe_slot"], {"slot": settings.relay.slot})
    awaited = rows(connection, queries["observe_awaited_standbys"], {"slot": settings.relay.slot})
    holder = one(connection, queries["relay_lead_holder"], {"key": lock_key("lead", settings.relay.slot)})
    try:
        relay = one(connection, queries["relay_row"], {"relay": settings.relay.name})
    except _NOT_THERE:
        relay = None
    counted = None
    if checkpoint is not None and relay is not None and settings.outbox.table == _OURS:
        try:
            counted = _rows_above(connection, settings, horizon_of(checkpoint, relay["snapshot"]), server["today"])
        except psycopg.errors.QueryCanceled:
            problems.append(f"the outbox could not be counted within {STATEMENT_MS / 1000:g} s")
        except _NOT_OUR_SHAPE:
            problems.append("the outbox table has no transaction ids to count by")
    return DatabaseSide(
        database=server["database"],
        in_recovery=server["in_recovery"],
        wal_lsn=_lsn(server["wal_lsn"]),
        leader=None if holder is None else _leader(holder),
        slot=None if slot is None else _slot(slot),
        epoch=None if relay is None else relay["epoch"],
        started=relay is not None and bool(relay["started"]),
        rows=counted,
        stuck=None if relay is None else _stuck(connection, settings.relay.name),
        commands=() if relay is None else _commands(connection, settings.relay.name),
        timeline=server["timeline"],
        awaited=tuple(row["name"] for row in awaited if not row["active"]),
        problems=tuple(problems),
    )


def find_event(connection: Session, settings: Settings, event_id: UUID) -> OutboxRow | None:
    """The event's row, None where there is none (any more). Raises LookupError where there is no outbox at all."""
    columns = {
        name: sql.Identifier(settings.outbox.columns.get(name, name))
        for name in ("id", "aggregatetype", "aggregateid", "type", "created_at", "payload")
    }
    name = "observe_event_ours" if settings.outbox.table == _OURS else "observe_event"

    def ask(as_text: LiteralString = "") -> dict[str, Any] | None:
        query = sql.SQL(queries[name]).format(outbox=_outbox(settings), as_text=sql.SQL(as_text), **columns)
        return one(connection, query, {"id": event_id})

    try:
        try:
            row = ask()
        except psycopg.errors.UndefinedFunction:
            # A payload in json or jsonb has no length of its own.
            row = ask("::text")
    except _NOT_THERE as error:
        raise LookupError(f"table {settings.outbox.table} does not exist") from error
    if row is None:
        return None
    whole = {key: None if row[key] is None else int(row[key]) for key in ("bucket", "xid")}
    return OutboxRow(**{**row, **whole})


def consumed(connection: Session, event_id: UUID) -> list[Taken]:
    """Who has it in an inbox of this database; a consumer's inbox is often in another one."""
    try:
        return [Taken(**row) for row in rows(connection, queries["observe_consumed"], {"id": event_id})]
    except _NOT_THERE:
        return []


def held(connection: Session, settings: Settings, event_id: UUID) -> Held | None:
    """What the parking knows of the event; None where it never was in it, or has gone out since."""
    try:
        found = one(connection, queries["observe_held"], {"relay": settings.relay.name, "id": event_id})
    except _NOT_THERE:
        return None
    return None if found is None else Held(**found)


def horizon_of(checkpoint: Checkpoint, snapshot: str | None) -> int:
    """The transaction id below which all is settled; 0 where nobody can say.

    A young relay's checkpoint has none yet. Then it is the slot's own snapshot, once the rows in it are published.
    """
    if checkpoint.horizon > 0 or checkpoint.backfill is not None or snapshot is None:
        return checkpoint.horizon
    return int(snapshot.partition(":")[0])


def count_above(leaf: Callable[[int], tuple[Rows, bool]], today: int) -> Rows:
    """Add up the ring's leaves from today back, as far as needed. `leaf` tells its rows, and whether it has any at all.

    Nothing is indexed by transaction, so no more leaves are read than must be: ids grow with time, and where a day has
    rows but none above the horizon, no day before has any. Except the one before it, since a transaction writes into
    the leaf of the day on which it began.
    """
    total = Rows(0, 0.0)
    last = False
    for day in range(today, today - LEAVES, -1):
        rows, used = leaf(day % LEAVES)
        total = Rows(
            total.events + rows.events, max(total.oldest_seconds, rows.oldest_seconds), total.capped or rows.capped
        )
        if last or total.capped:
            break
        last = used and rows.events == 0
    return total


def _rows_above(connection: Session, settings: Settings, horizon: int, today: int) -> Rows:
    query = sql.SQL(queries["observe_lag"]).format(outbox=_outbox(settings))

    def leaf(bucket: int) -> tuple[Rows, bool]:
        found = one(connection, query, {"bucket": bucket, "horizon": horizon, "most": COUNTED_MOST})
        assert found is not None  # noqa: S101 - count(*) always answers
        oldest = max(0.0, found["oldest_seconds"] or 0.0)
        return Rows(found["events"], oldest, found["events"] >= COUNTED_MOST), found["used"]

    return count_above(leaf, today)


def _stuck(connection: Session, relay: str) -> Stuck | None:
    found = one(connection, queries["parked_counts"], {"relay": relay, "most": COUNTED_MOST})
    if found is None:
        return None
    stands = one(connection, queries["observe_halting"], {"relay": relay}) if found["standing_before"] else None
    return Stuck(found["messages"], found["keys"], found["standing_before"], **(stands or {}))


def _commands(connection: Session, relay: str) -> tuple[Underway, ...]:
    return tuple(Underway(**row) for row in rows(connection, queries["observe_commands"], {"relay": relay}))


def _outbox(settings: Settings) -> sql.Identifier:
    return sql.Identifier(*settings.outbox.schema_and_table)


def _leader(row: Mapping[str, Any]) -> Leader:
    return Leader(row["pid"], row["application_name"] or None, row["client_addr"], row["idle_seconds"])


def _slot(row: Mapping[str, Any]) -> Slot:
    return Slot(
        active=row["active"],
        wal_status=row["wal_status"],
        retained_bytes=row["retained_bytes"],
        safe_wal_bytes=row["safe_wal_size"],
        confirmed_flush=_lsn(row["confirmed_flush"]),
    )


def _lsn(text: str | None) -> Lsn:
    return Lsn(0) if text is None else parse_lsn(text)
