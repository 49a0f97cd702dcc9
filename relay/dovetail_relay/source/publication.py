"""What a publication publishes, and its fingerprint.

The server changes a publication silently under a running slot: a table taken out and put back loses the rows written
in between, and PostgreSQL 18 does not even complain about a dropped one. So `init` records a fingerprint, and the
relay and `doctor` compare it with what they find. It covers which objects these are, not only how they look: one that
was taken away and put back while no relay ran shows as well. Reads only; the catalogue is open to every role.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
class Publication:
    """The whole shape of one publication. `identity` is the object ids of itself and of its tables' entries."""

    name: str
    identity: str
    actions: frozenset[str]
    via_root: bool
    all_tables: bool
    tables: tuple[PublishedTable, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON of everything above but the name."""
        shape = {
            "identity": self.identity,
            **{f"pub{action}": action in self.actions for action in _ACTIONS},
            "pubviaroot": self.via_root,
            "puballtables": self.all_tables,
            "tables": [[t.schema, t.table, list(t.columns), t.row_filter] for t in self.tables],
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
    )


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
