"""What may happen to the rows of the outbox without a word of the server: passed over, or published twice."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from dovetail_relay.setup.checks_server import Server
from dovetail_relay.setup.connect import one, rows
from dovetail_relay.setup.findings import Finding, judge
from dovetail_relay.setup.shape import moving_rows, unstreamed, unstreamed_cure, unstreamed_problem
from dovetail_schemas.sql import queries


def parts(server: Server) -> Iterator[Finding]:
    """No part of the outbox is kept from the publication: the server passes over its rows without a word."""
    found = unstreamed(server.connection, server.settings)
    cures = "; ".join(unstreamed_cure(server.connection, part) for part in found)
    yield judge(
        "dovetail.outbox_parts",
        good=not found,
        found="; ".join(map(unstreamed_problem, found)) or "all of the outbox is logged and published",
        wanted="logged, and the outbox itself or a partition of it",
        remedy=f"{cures}; then dovetail reconcile, for what was written meanwhile",
    )


def updates(server: Server) -> Iterator[Finding]:
    """An update of a row that was published is lost on its readers: an outbox only ever grows."""
    schema, table = server.settings.outbox.schema_and_table
    updated = (one(server.connection, queries["setup_updates"], {"schema": schema, "table": table}) or {})["updated"]
    yield judge(
        "dovetail.outbox_updates",
        good=not updated,
        found=f"rows of {schema}.{table} updated: {updated}" if updated else "no row was ever updated",
        wanted="none: an update is never published",
        remedy="publish another event instead; pg_stat_reset_single_table_counters forgets the number",
        otherwise="warn",
    )


def moves(server: Server) -> Iterator[Finding]:
    """A row that moves between partitions of a table that is not ours streams again, under the id that it has."""
    problem = moving_rows(server.connection, server.settings)
    if problem:
        yield Finding(
            "dovetail.outbox_moves", "warn", problem, "updated by nobody in what it is partitioned by",
            "the trigger in docs/how-to/from-debezium.md refuses such an UPDATE",
        )  # fmt: skip


def forgers(server: Server) -> Iterator[Finding]:
    """Whoever sets a row's xid decides whether a recovery finds it: with an old one it would be passed over."""
    if server.settings.outbox.foreign:
        return
    names = [row["name"] for row in rows(server.connection, queries["setup_forgers"])]
    who = sql.SQL(", ").join(sql.SQL("PUBLIC") if name == "PUBLIC" else sql.Identifier(name) for name in names)
    revoke = sql.SQL("REVOKE INSERT ON dovetail.outbox FROM {}").format(who).as_string(server.connection)
    yield judge(
        "dovetail.outbox_forgers",
        good=not names,
        found=f"{', '.join(names)} may set xid, seq and bucket of dovetail.outbox" if names
        else "only the database sets xid, seq and bucket",
        wanted="set by the database: a recovery passes over rows with an older xid",
        remedy=f"{revoke}; then GRANT dovetail_app to who publishes, and dovetail init --owner-dsn …",
    )  # fmt: skip


def unread(server: Server) -> Iterator[Finding]:
    """Where this relay reads another table, `dovetail.publish` must not succeed into one that nobody reads."""
    row = one(server.connection, queries["setup_unread"]) if server.settings.outbox.foreign else None
    if row is None:
        return
    lost = row["holds_rows"] and not row["read"]
    open_door = row["may_publish"] and not row["read"]
    revoke = "REVOKE INSERT ON dovetail.outbox FROM dovetail_app"
    yield judge(
        "dovetail.outbox_unread",
        good=not lost and not open_door,
        found="dovetail.outbox holds events, and no relay reads it" if lost
        else "services may publish into dovetail.outbox, and no relay reads it" if open_door
        else "dovetail.outbox is read by another relay" if row["read"]
        else "nobody publishes into dovetail.outbox",
        wanted=f'events in {server.settings.outbox.table}, or a second relay with [outbox] table = "dovetail.outbox"',
        remedy=f"dovetail init for that relay, which publishes what is there; or {revoke}"
        + ("; TRUNCATE dovetail.outbox, if nobody needs them" if lost else ""),
    )  # fmt: skip


CHECKS = (parts, updates, moves, forgers, unread)
