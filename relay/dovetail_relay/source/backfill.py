"""Rows that were committed before the slot's consistent point: they never stream, so they are read from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import psycopg

from dovetail_relay.nouns import Parked, Record, RelayRow
from dovetail_relay.source.replication import server_error
from dovetail_schemas.sql import queries

# Fetched at a time, and up to which size a row comes with what makes it large: together 32 MB at most.
_FETCH_ROWS: Final = 2000
_INLINE_BYTES: Final = 16 << 10
# Where payload and headers stand in a row.
_LARGE_COLUMNS: Final = (4, 7)


class Bounds(NamedTuple):
    """When a batch is full, and from which size on a row is not read at all."""

    rows: int
    bytes: int
    max_row_bytes: int


class StoredRows(NamedTuple):
    """A batch of rows from the table: what goes out, what waits, and the `seq` to go on from."""

    records: list[Record]
    parked: list[Parked]
    after: int


def backfill_rows(
    conninfo: str,
    row: RelayRow,
    next_seq: int,
    bounds: Bounds,
    take: Callable[[tuple[bytes | None, ...], int, int], tuple[Record | None, Parked | None]],
) -> Iterator[StoredRows]:
    """Batches from `next_seq` on, of the rows visible in the slot's snapshot, in the order of `seq`.

    In a recovery only of those that may be missing, without what was read back from the topics. `take` gets the raw
    values, `seq` and the size, and says what goes out of a row, and what waits; of a row beyond the limit the values
    come without what is large. A server-side cursor, so that memory stays flat whatever was there before.
    """
    asked = {
        "relay": row.name,
        "next_seq": next_seq,
        "snapshot": row.snapshot,
        "horizon": row.recovery_horizon or 0,
        "inline": _INLINE_BYTES,
    }
    taken: list[tuple[Record | None, Parked | None]] = []
    held = seq = 0
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor("dovetail_backfill") as cursor:
            # One snapshot for both queries: a row that is deleted meanwhile is there for the second as for the first.
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            cursor.itersize = _FETCH_ROWS
            cursor.execute(queries["relay_backfill"], asked)
            for seq, size, *values in cursor:
                if _INLINE_BYTES < size <= bounds.max_row_bytes:
                    _complete(connection, seq, values)
                taken.append(take(tuple(values), seq, size))
                held += size
                if len(taken) >= bounds.rows or held >= bounds.bytes:
                    yield _stored(taken, seq + 1)
                    taken, held = [], 0
            if taken:
                yield _stored(taken, seq + 1)
    except psycopg.Error as error:
        raise server_error(error, "reading the outbox") from error


def _stored(taken: list[tuple[Record | None, Parked | None]], after: int) -> StoredRows:
    return StoredRows(
        [record for record, _ in taken if record is not None],
        [parked for _, parked in taken if parked is not None],
        after,
    )


def _complete(connection: psycopg.Connection[Any], seq: int, values: list[bytes | None]) -> None:
    (large,) = connection.execute(queries["relay_backfill_large"], {"id": values[0], "seq": seq}).fetchall()
    for place, value in zip(_LARGE_COLUMNS, large, strict=True):
        values[place] = value
