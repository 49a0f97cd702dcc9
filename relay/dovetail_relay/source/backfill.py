"""Rows that were committed before the slot's consistent point: they never stream, so they are read from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg

from dovetail_relay.nouns import Record
from dovetail_relay.source.replication import server_error
from dovetail_schemas.sql import queries


def backfill_rows(
    conninfo: str,
    snapshot: str,
    next_seq: int,
    batch_rows: int,
    to_record: Callable[[tuple[bytes | None, ...], int], Record],
) -> Iterator[tuple[list[Record], int]]:
    """Batches of (records, next seq) from `next_seq` on, of the rows visible in `snapshot`, in the order of `seq`.

    A server-side cursor, so that memory stays flat whatever was there before.
    """
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor("dovetail_backfill") as cursor:
            cursor.itersize = batch_rows
            cursor.execute(queries["relay_backfill"], {"next_seq": next_seq, "snapshot": snapshot})
            while rows := cursor.fetchmany(batch_rows):
                yield [to_record(tuple(row[1:]), row[0]) for row in rows], rows[-1][0] + 1
    except psycopg.Error as error:
        raise server_error(error, "reading the outbox") from error
