"""Many rows in little time, which the checker can still check: each key's numbers are 1, 2, 3 …"""

from __future__ import annotations

import io
import uuid
from collections import Counter
from collections.abc import Iterator

import fastavro
import psycopg

from support.checker import Seen
from support.world import World
from support.writers import NUMBERED_SCHEMA

KEYS = 100
_COLUMNS = "id, aggregatetype, aggregateid, type, payload, schema_fingerprint"


class Bulk:
    """Writes one transaction per call, by COPY. The numbers are its own: one writer per world."""

    def __init__(self, world: World, *, payload_bytes: int) -> None:
        self._world = world
        self._filling = "x" * payload_bytes
        self._next: Counter[str] = Counter()

    def go_on_from(self, table: list[Seen]) -> None:
        """Take the numbers from what is committed, after a commit whose end is unknown."""
        self._next = Counter(seen.key for seen in table)

    def transaction(self, rows: int) -> int:
        """Commit so many rows; a position that is confirmed only with them or after them."""
        following = Counter(self._next)
        with psycopg.connect(self._world.endpoints.owner_dsn) as connection:
            row = connection.execute("SELECT fingerprint FROM dovetail.event_schema").fetchone()
            assert row is not None
            copying = f"COPY dovetail.outbox ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
            with connection.cursor() as cursor, cursor.copy(copying) as copy:
                copy.set_types(["uuid", "text", "text", "text", "bytea", "bytea"])
                for key, payload in self._events(rows, following):
                    copy.write_row((uuid.uuid4(), self._world.aggregate, key, "Numbered", payload, row[0]))
            row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
            assert row is not None
        self._next = following
        return int(row[0])

    def _events(self, rows: int, following: Counter[str]) -> Iterator[tuple[str, bytes]]:
        for nth in range(rows):
            key = f"key-{nth % KEYS}"
            following[key] += 1
            out = io.BytesIO()
            fastavro.schemaless_writer(out, NUMBERED_SCHEMA, {"key": self._filling, "number": following[key]})
            yield key, out.getvalue()
