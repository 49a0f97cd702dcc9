"""Rows that were committed before the slot's consistent point: they never stream, so they are read from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg

from dovetail_relay.nouns import Parked, Record, RelayRow
from dovetail_relay.source.replication import server_error
from dovetail_schemas.sql import queries


class StoredRows(NamedTuple):
    """A batch of rows from the table: what goes out, what waits, and the `seq` to go on from."""

    records: list[Record]
    parked: list[Parked]
    after: int


def backfill_rows(
    conninfo: str,
    row: RelayRow,
    next_seq: int,
    batch_rows: int,
    take: Callable[[tuple[bytes | None, ...], int], tuple[Record | None, Parked | None]],
) -> Iterator[StoredRows]:
    """Batches from `next_seq` on, of the rows visible in the slot's snapshot, in the order of `seq`.

    In a recovery only of those that may be missing, without what was read back from the topics. `take` says what goes
    out of a row, and what waits.
    A server-side cursor, so that memory stays flat whatever was there before.
    """
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor("dovetail_backfill") as cursor:
            cursor.itersize = batch_rows
            cursor.execute(
                queries["relay_backfill"],
                {
                    "relay": row.name,
                    "next_seq": next_seq,
                    "snapshot": row.snapshot,
                    "horizon": row.recovery_horizon or 0,
                },
            )
            while rows := cursor.fetchmany(batch_rows):
                taken = [take(tuple(row[1:]), row[0]) for row in rows]
                yield StoredRows(
                    [record for record, _ in taken if record is not None],
                    [parked for _, parked in taken if parked is not None],
                    rows[-1][0] + 1,
                )
    except psycopg.Error as error:
        raise server_error(error, "reading the outbox") from error
