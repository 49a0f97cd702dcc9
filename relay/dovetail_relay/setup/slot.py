"""The replication slot and the relay's row: made together, once, by the relay's own role.

Rows committed before the slot's consistent point never stream. So the slot is made with an exported snapshot, and its
text is kept in the row: the first leader publishes what was visible in it. A slot without its row, or a row without
its slot, is therefore never patched up silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from dovetail_relay.config import Settings
from dovetail_relay.errors import Diverged, Misconfigured, PublicationChanged, SlotLost
from dovetail_relay.setup.connect import Session, named_errors, one, replication_session, rows, session
from dovetail_relay.setup.problems import SlotWithoutRow, WalLevel
from dovetail_relay.setup.steps import Step
from dovetail_relay.source.publication import publication_fingerprint
from dovetail_schemas.sql import queries

# Slots that survive a failover came with this release.
FAILOVER_SINCE = 170000

# How long nothing is said while the server waits for open transactions, and how often it is said again.
_SILENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Blocker:
    """Somebody whose open transaction the making of a slot waits for. Never its query text."""

    pid: int
    role: str
    application: str
    age_seconds: float | None

    def line(self) -> str:
        """For a person."""
        age = "age unknown" if self.age_seconds is None else f"for {self.age_seconds:.0f} s"
        if self.pid == 0:
            return f"a prepared transaction, {age}: {self.application}"
        who = f"{self.role} ({self.application})" if self.application else self.role
        return f"pid {self.pid}, {who}, {age}"


OnWait = Callable[[list[Blocker]], None]


@dataclass(frozen=True, slots=True)
class NewSlot:
    """A slot that was just made: where it begins, and the snapshot of what lies before that."""

    system_id: str
    consistent_point: str
    snapshot: str


def slot_facts(connection: psycopg.Connection[Any], slot: str) -> dict[str, Any] | None:
    """The server's row of a slot as it is now; None when there is none."""
    row = one(connection, queries["setup_slot"], {"slot": slot})
    return dict(row["slot"]) if row else None


def relay_row(connection: psycopg.Connection[Any], settings: Settings) -> dict[str, Any] | None:
    """This relay's row. Raises Misconfigured when another relay has the slot, or this one had another slot."""
    found = rows(connection, queries["setup_relay_row"], {"relay": settings.relay.name, "slot": settings.relay.slot})
    for row in found:
        if row["name"] != settings.relay.name:
            raise Misconfigured(
                f"slot {row['slot']!r} belongs to relay {row['name']!r}, not to {settings.relay.name!r}",
                remedy="set relay.slot or relay.name to what they were",
            )
        if row["slot"] != settings.relay.slot:
            raise Misconfigured(
                f"relay {row['name']!r} was set up with slot {row['slot']!r}, not {settings.relay.slot!r}",
                remedy=f'set relay.slot = "{row["slot"]}"',
            )
    return dict(found[0]) if found else None


def slot_problem(facts: Mapping[str, Any], settings: Settings, database: str) -> str | None:
    """Why this slot cannot be the relay's; None when it can."""
    name = settings.relay.slot
    if facts["plugin"] != "pgoutput":
        return f"slot {name!r} uses the plugin {facts['plugin']!r}, not pgoutput: it is not this relay's"
    if facts["database"] != database:
        return f"slot {name!r} belongs to database {facts['database']!r}, not to {database!r}"
    if facts["confirmed_flush_lsn"] is None:
        return f"slot {name!r} is still being made, or whoever was making it has ended"
    reason = facts.get("invalidation_reason") or facts.get("conflicting")
    if facts["wal_status"] == "lost" or reason:
        said = f" ({reason})" if isinstance(reason, str) else ""
        return f"slot {name!r} was invalidated{said}: the WAL it needs is gone"
    return None


def ensure_slot(
    relay: Session,
    settings: Settings,
    partitions: Mapping[str, int],
    *,
    change: bool,
    on_wait: OnWait,
) -> Iterator[Step]:
    """Slot and row: made when both are missing, left alone when both are there and fit each other."""
    name = settings.relay.slot
    server = one(relay, queries["setup_session"]) or {}
    facts, row = slot_facts(relay, name), relay_row(relay, settings)
    if facts and (problem := slot_problem(facts, settings, server["database"])):
        raise SlotLost(problem, remedy="dovetail recover" if row else f"SELECT pg_drop_replication_slot('{name}')")
    if facts and not row:
        raise SlotWithoutRow(
            f"slot {name!r} exists, but dovetail.relay has no row {settings.relay.name!r}: nobody knows where it began",
            remedy=f"SELECT pg_drop_replication_slot('{name}') if no relay ever used it, then dovetail init",
        )
    if row and not facts:
        raise SlotLost(f"dovetail.relay has the row {settings.relay.name!r}, but slot {name!r} does not exist")
    fingerprint = publication_fingerprint(relay, settings.outbox.publication)
    if row:
        _check_row(row, settings, fingerprint)
        yield Step(f"slot {name}", "there", f"since {row['consistent_point']}")
        yield from _more_partitions(relay, settings, row, partitions, change=change)
    elif not change:
        yield Step(f"slot {name}", "missing")
    else:
        if server["wal_level"] != "logical":
            raise WalLevel(f"wal_level is {server['wal_level']!r}, logical is needed")
        if server["in_recovery"]:
            raise Misconfigured("the server is a standby; the slot is made on the primary", remedy="fix postgres.dsn")
        point = _make(relay, settings, fingerprint, partitions, on_wait)
        yield Step(f"slot {name}", "done", f"from {point}")
        if settings.outbox.foreign:
            yield Step(f"rows of {settings.outbox.table} from before the slot", "left", "published from now on only")
    if row or change:
        yield from _messages(relay, settings, change=change)


def _messages(relay: Session, settings: Settings, *, change: bool) -> Iterator[Step]:
    """Whether writers of logical messages are told that this relay reads them; silent where that is so.

    Only the relay itself says yes, once it reads them: what is emitted before would be lost. No is said here.
    """
    wanted = settings.outbox.messages
    told = (one(relay, queries["setup_messages"], {"relay": settings.relay.name}) or {})["messages"]
    if told == wanted:
        return
    if wanted:
        yield Step("logical messages", "left", "the relay lets writers begin once it runs with outbox.messages")
        return
    if change:
        relay.execute(queries["setup_store_messages"], {"relay": settings.relay.name, "messages": False})
    yield Step("logical messages are no longer read", "done" if change else "missing")


def _check_row(row: Mapping[str, Any], settings: Settings, fingerprint: str) -> None:
    with replication_session(settings) as replication:
        system = replication.execute("IDENTIFY_SYSTEM").fetchone() or {}
    if row["system_id"] != system["systemid"]:
        raise Diverged(f"relay {row['name']!r} was set up on system {row['system_id']}, this is {system['systemid']}")
    if row["publication_fingerprint"] != fingerprint:
        raise PublicationChanged(
            f"publication {settings.outbox.publication!r} is not what it was when relay {row['name']!r} was set up"
        )


def _more_partitions(
    relay: Session,
    settings: Settings,
    row: Mapping[str, Any],
    partitions: Mapping[str, int],
    *,
    change: bool,
) -> Iterator[Step]:
    new = {topic: count for topic, count in partitions.items() if topic not in row["partition_counts"]}
    if not new:
        return
    if change:
        relay.execute(
            queries["setup_add_partitions"],
            {"partitions": json.dumps(new, sort_keys=True), "relay": settings.relay.name},
        )
    yield Step(f"partition counts of {', '.join(sorted(new))}", "done" if change else "missing")


def _make(
    relay: Session,
    settings: Settings,
    fingerprint: str,
    partitions: Mapping[str, int],
    on_wait: OnWait,
) -> str:
    """Make the slot and write its row; when the row cannot be written the slot goes again."""
    with new_slot(settings, relay, on_wait) as made:
        relay.execute(
            queries["setup_store_relay"],
            {
                "relay": settings.relay.name,
                "slot": settings.relay.slot,
                "system_id": made.system_id,
                "consistent_point": made.consistent_point,
                # Rows of another table carry no transaction ids: which of them the slot has not seen is unknown.
                "snapshot": None if settings.outbox.foreign else made.snapshot,
                "fingerprint": fingerprint,
                "partitions": json.dumps(dict(partitions), sort_keys=True),
            },
        )
    return made.consistent_point


@contextmanager
def new_slot(settings: Settings, watch: psycopg.Connection[Any], on_wait: OnWait) -> Iterator[NewSlot]:
    """Make the slot, for a body that writes down where it begins; when the body fails the slot goes again.

    `on_wait` hears every two seconds whom the server waits for, as `watch` sees it; what it raises ends the wait.
    """
    with replication_session(settings) as replication:
        system = replication.execute("IDENTIFY_SYSTEM").fetchone() or {}
        made = _create(replication, watch, settings, on_wait)
        try:
            # The exported snapshot lives as long as the replication connection sends nothing more.
            snapshot = _snapshot_text(settings, made["snapshot_name"])
            yield NewSlot(str(system["systemid"]), str(made["consistent_point"]), snapshot)
        except BaseException:
            slot = sql.Identifier(settings.relay.slot)
            replication.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(slot))
            raise


def _create(
    replication: Session, watch: psycopg.Connection[Any], settings: Settings, on_wait: OnWait
) -> dict[str, Any]:
    failover = ", FAILOVER true" if replication.info.server_version >= FAILOVER_SINCE else ""
    statement = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export'" + failover + ")").format(
        sql.Identifier(settings.relay.slot),
    )
    pid = replication.info.backend_pid
    # The walsender waits inside the call for every transaction that is open now; meanwhile we tell who they are.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="create-slot") as side:
        call = side.submit(_run, replication, statement, settings)
        try:
            while True:
                try:
                    return call.result(timeout=_SILENCE_SECONDS)
                except NotYet:
                    on_wait(blockers(watch, pid))
        except BaseException:
            replication.cancel()
            raise


def _run(replication: Session, statement: sql.Composed, settings: Settings) -> dict[str, Any]:
    with named_errors(settings, "relay"):
        return dict(replication.execute(statement).fetchone() or {})


def blockers(connection: psycopg.Connection[Any], pid: int) -> list[Blocker]:
    """Whom the backend `pid` waits for. With too few rights an age is unknown."""
    found = rows(connection, queries["setup_blockers"], {"pid": pid})
    known = [Blocker(row["pid"], row["role"], row["application"], row["age_seconds"]) for row in found if row["pid"]]
    if any(row["pid"] == 0 for row in found):
        known += [
            Blocker(0, row["owner"], f"{row['gid']} of {row['owner']}", row["age_seconds"])
            for row in rows(connection, queries["setup_prepared"])
        ]
    return known


def _snapshot_text(settings: Settings, snapshot_name: str) -> str:
    with session(settings, "relay") as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with reader.transaction():
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_name)))
            row = reader.execute(queries["setup_snapshot"]).fetchone() or {}
            return as_input(str(row["snapshot"]))


def as_input(snapshot: str) -> str:
    """A snapshot's text as PostgreSQL takes it in again; it does not take all that it prints.

    The exported snapshot of a new slot may have its xmin above its xmax, where the newest transactions before the slot
    have all rolled back: "3466:3465:". Nothing from xmax on is visible in it, so xmin says nothing that xmax does not.
    """
    xmin, xmax, running = snapshot.split(":")
    return f"{min(int(xmin), int(xmax))}:{xmax}:{running}"
