"""What a publication publishes, and its fingerprint.

The server changes a publication silently under a running slot: a table taken out and put back loses the rows written
in between, and PostgreSQL 18 does not even complain about a dropped one. So `init` records a fingerprint, and the
relay and `doctor` compare it with what they find. It covers which objects these are, not only how they look: one that
was taken away and put back while no relay ran shows as well. And it covers the tables below the published ones that no
publication sends, a leaf that was made UNLOGGED for one: their rows would be passed over just as silently. Reads only;
the catalogue is open to every role.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from dovetail_schemas.sql import queries

_ACTIONS = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of a publication. `columns` are sorted; without a column list they are all the table has."""

    schema: str
    table: str
    columns: tuple[str, ...]
    row_filter: str | None


@dataclass(frozen=True, slots=True)
class Unstreamed:
    """A table that belongs to a published one, as a part of it or as itself, and whose rows are never sent."""

    schema: str
    table: str
    # None both where it is the published table itself.
    parent_schema: str | None
    parent: str | None
    reason: Literal["unlogged", "foreign", "inherits"]


@dataclass(frozen=True, slots=True)
class Publication:
    """The whole shape of one publication. `identity` is the object ids of itself and of its tables' entries."""

    name: str
    identity: str
    actions: frozenset[str]
    via_root: bool
    all_tables: bool
    tables: tuple[PublishedTable, ...]
    unstreamed: tuple[Unstreamed, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON of everything above but the name."""
        shape = {
            "identity": self.identity,
            **{f"pub{action}": action in self.actions for action in _ACTIONS},
            "pubviaroot": self.via_root,
            "puballtables": self.all_tables,
            "tables": [[t.schema, t.table, list(t.columns), t.row_filter] for t in self.tables],
            "unstreamed": [[t.schema, t.table, t.reason] for t in self.unstreamed],
        }
        text = json.dumps(shape, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def line(self) -> str:
        """For a person: what is published of what."""
        what = ", ".join(sorted(self.actions)) or "nothing"
        tables = "; ".join(
            f"{t.schema}.{t.table} ({', '.join(t.columns)})" + (f" where {t.row_filter}" if t.row_filter else "")
            for t in self.tables
        )
        return f"{what} of {tables or 'no table'}, via root {'on' if self.via_root else 'off'}"


def read_publication(connection: psycopg.Connection[Any], name: str) -> Publication:
    """The publication as it is now. Raises LookupError when there is none of that name in this database.

    Uses a cursor of its own, so the connection's row factory does not matter.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(queries["setup_publication"], {"publication": name}).fetchall()
    if not rows:
        raise LookupError(f"publication {name!r} does not exist in this database")
    tables = sorted(
        (_table(row) for row in rows if row["tablename"] is not None),
        key=lambda table: (table.schema, table.table),
    )
    head = rows[0]
    return Publication(
        name=name,
        identity=head["identity"],
        actions=frozenset(action for action in _ACTIONS if head[f"pub{action}"]),
        via_root=head["pubviaroot"],
        all_tables=head["puballtables"],
        tables=tuple(tables),
        unstreamed=read_unstreamed(connection, [(table.schema, table.table) for table in tables]),
    )


def read_unstreamed(connection: psycopg.Connection[Any], tables: Sequence[tuple[str, str]]) -> tuple[Unstreamed, ...]:
    """What belongs to these tables, given as (schema, name), and is not sent by a publication of them."""
    asked = {"schemas": [schema for schema, _ in tables], "tables": [table for _, table in tables]}
    with connection.cursor(row_factory=dict_row) as cursor:
        return tuple(Unstreamed(**row) for row in cursor.execute(queries["setup_unstreamed"], asked).fetchall())


def publication_fingerprint(connection: psycopg.Connection[Any], publication: str) -> str:
    """The fingerprint of the publication as it is now; raises LookupError when it does not exist."""
    return read_publication(connection, publication).fingerprint


def _table(row: Mapping[str, Any]) -> PublishedTable:
    return PublishedTable(
        schema=row["schemaname"],
        table=row["tablename"],
        columns=tuple(sorted(row["columns"] or ())),
        row_filter=row["rowfilter"],
    )
