"""The outbox table and its publication: what they must look like, and making the publication where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from dovetail_relay.config import Settings
from dovetail_relay.decode.pgoutput import REQUIRED, Column, Relation, columns_read
from dovetail_relay.errors import Misconfigured, OutboxAltered, PublicationChanged
from dovetail_relay.setup.connect import one, rows
from dovetail_relay.setup.steps import Step
from dovetail_relay.source.publication import Publication, Unstreamed, read_publication, read_unstreamed
from dovetail_schemas.sql import queries

# A plain table or a partitioned root; nothing else can be published.
_TABLE_KINDS = {"r", "p"}
_OTHER_KINDS = {"v": "a view", "m": "a materialized view", "f": "a table of another server", "S": "a sequence"}


def outbox_columns(connection: psycopg.Connection[Any], settings: Settings) -> tuple[str, ...]:
    """The columns of the outbox table that the relay reads, in the table's order.

    Raises OutboxAltered where a needed one is gone or has a type that the relay cannot read: the same check that the
    relay makes when the table's description arrives in the stream.
    """
    schema, table = settings.outbox.schema_and_table
    found = rows(connection, queries["setup_columns"], {"schema": schema, "table": table})
    if not found:
        remedy = "CREATE TABLE it, or correct outbox.table" if settings.outbox.foreign else "dovetail init"
        raise OutboxAltered(f"table {schema}.{table} does not exist", remedy=remedy)
    if (kind := found[0]["kind"]) not in _TABLE_KINDS:
        raise OutboxAltered(
            f"{schema}.{table} is {_OTHER_KINDS.get(kind, 'no table')}; only a table, partitioned or not, is published",
            remedy="set outbox.table to the table that the events are inserted into",
        )
    every = tuple(Column(row["name"], row["type_oid"]) for row in found)
    names = {row["type_oid"]: row["type"] for row in found}
    try:
        places = columns_read(Relation(b"", schema, table, every), dict(settings.outbox.columns), names)
    except OutboxAltered as error:
        if settings.outbox.foreign:
            error.remedy = "ALTER TABLE it, or name another column in [outbox.columns]; then dovetail init"
        raise
    return tuple(every[place].name for place in sorted(places.values()))


def publication_problems(publication: Publication, settings: Settings, columns: tuple[str, ...]) -> list[str]:
    """What is wrong with a publication, as sentences; empty when it has exactly the shape that the relay needs."""
    schema, table = settings.outbox.schema_and_table
    problems: list[str] = []
    if publication.all_tables:
        problems.append("it is FOR ALL TABLES: every table of the database would be sent to the relay")
    if "insert" not in publication.actions:
        problems.append("it does not publish inserts: no event would ever arrive")
    if more := sorted(publication.actions - {"insert"}):
        problems.append(f"it publishes {', '.join(more)} as well; only insert is wanted, so that clean-up stays silent")
    if not publication.via_root:
        problems.append("publish_via_partition_root is off: rows would arrive under the names of the partitions")
    ours = [found for found in publication.tables if (found.schema, found.table) == (schema, table)]
    others = [f"{t.schema}.{t.table}" for t in publication.tables if (t.schema, t.table) != (schema, table)]
    if others and not publication.all_tables:
        problems.append(f"it publishes {', '.join(others[:3])}, which is not the outbox")
    if not ours:
        return [*problems, f"it does not publish {schema}.{table}"]
    if ours[0].row_filter:
        problems.append("it has a row filter: some events would never arrive")
    needed = {settings.outbox.columns.get(field, field) for field in REQUIRED} | set(columns)
    if hidden := sorted(needed - set(ours[0].columns)):
        problems.append(f"its column list hides {', '.join(hidden)}")
    return problems


def unstreamed(connection: psycopg.Connection[Any], settings: Settings) -> tuple[Unstreamed, ...]:
    """What belongs to the outbox table and is never sent, whatever the publication says."""
    return read_unstreamed(connection, [settings.outbox.schema_and_table])


def unstreamed_problem(found: Unstreamed) -> str:
    """Why rows in it are lost on the readers, as a sentence."""
    name = f"{found.schema}.{found.table}"
    if found.reason == "inherits":
        return f"{name} inherits from {found.parent_schema}.{found.parent}: rows in it are never published"
    if found.reason == "foreign":
        return f"{name} is a table of another server: rows in it are never published"
    return f"{name} is not logged: rows in it are never published, and a crash empties it"


def unstreamed_cure(connection: psycopg.Connection[Any], found: Unstreamed) -> str:
    """The statement that ends it."""
    table = sql.Identifier(found.schema, found.table)
    parent = sql.Identifier(found.parent_schema or found.schema, found.parent or found.table)
    statements = {
        "inherits": sql.SQL("ALTER TABLE {} NO INHERIT {}").format(table, parent),
        "foreign": sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, table),
        "unlogged": sql.SQL("ALTER TABLE {} SET LOGGED").format(table),
    }
    return statements[found.reason].as_string(connection)


def refuse_unstreamed(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """Raises Misconfigured where a part of the outbox would never be sent, with the statements to type."""
    found = unstreamed(connection, settings)
    if found:
        cures = "; ".join(unstreamed_cure(connection, part) for part in found)
        raise Misconfigured("; ".join(map(unstreamed_problem, found)), remedy=f"{cures}; then dovetail init")


def moving_rows(connection: psycopg.Connection[Any], settings: Settings) -> str | None:
    """How a row of the outbox could be published twice, as a sentence; None where it cannot.

    Of our own table a trigger refuses such an UPDATE; on another one nothing is made by us.
    """
    if not settings.outbox.foreign:
        return None
    schema, table = settings.outbox.schema_and_table
    row = one(connection, queries["setup_partitioned"], {"schema": schema, "table": table})
    if row is None:
        return None
    return f"{schema}.{table} is partitioned by {row['by']}: an UPDATE that moves a row is published as a second event"


def expected_sql(settings: Settings, columns: tuple[str, ...]) -> sql.Composed:
    """The statement that makes the publication as it should be."""
    return sql.SQL(
        "CREATE PUBLICATION {} FOR TABLE {} ({}) WITH (publish = 'insert', publish_via_partition_root = true)",
    ).format(
        sql.Identifier(settings.outbox.publication),
        sql.Identifier(*settings.outbox.schema_and_table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
    )


def ensure_publication(
    owner: psycopg.Connection[Any],
    settings: Settings,
    columns: tuple[str, ...],
    *,
    change: bool,
    slot_exists: bool,
) -> Iterator[Step]:
    """Make the publication where there is none; refuse one of another shape.

    A publication that vanished under an existing slot is not made again silently: PostgreSQL would skip, or stumble
    over, what was written in between.
    """
    name = settings.outbox.publication
    what = f"publication {name}"
    refuse_unstreamed(owner, settings)
    try:
        publication = read_publication(owner, name)
    except LookupError:
        if slot_exists:
            raise PublicationChanged(
                f"publication {name!r} does not exist, but slot {settings.relay.slot!r} does: rows written since"
                " would be lost without a word",
                remedy="dovetail doctor",
            ) from None
        if not change:
            yield Step(what, "missing")
            return
        owner.execute(expected_sql(settings, columns))
        publication = read_publication(owner, name)
        yield Step(what, "done")
    else:
        yield Step(what, "there")
    if problems := publication_problems(publication, settings, columns):
        raise Misconfigured(f"publication {name!r}: {'; '.join(problems)}", remedy=made_again(owner, settings, columns))


def made_again(connection: psycopg.Connection[Any], settings: Settings, columns: tuple[str, ...]) -> str:
    """The statements that put another publication in the place of one that does not fit.

    In one transaction: up to PostgreSQL 17 the stream ends for ever at a change that was made while there was none.
    """
    name = sql.Identifier(settings.outbox.publication).as_string(connection)
    return f"BEGIN; DROP PUBLICATION {name}; {expected_sql(settings, columns).as_string(connection)}; COMMIT"


def unfit(connection: psycopg.Connection[Any], settings: Settings) -> str | None:
    """Why no relay should go on from the publication as it is now, None where it is as `init` would have made it.

    Raises LookupError where there is none.
    """
    found = read_publication(connection, settings.outbox.publication)
    try:
        problems = publication_problems(found, settings, outbox_columns(connection, settings))
    except OutboxAltered as error:
        return str(error)
    return "; ".join([*problems, *map(unstreamed_problem, found.unstreamed)]) or None
