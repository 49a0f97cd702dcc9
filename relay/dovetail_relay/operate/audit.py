"""The audit log: what is in it, and whether it is still what was written.

Each entry carries the hash of the one before it. The hashes are computed anew here, from the fields as text, and not by
the database, whose functions belong to whoever owns it. An owner who rewrites the whole chain is found by the head that
the relay's checkpoint carries in Kafka.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from dovetail_relay.config import Settings
from dovetail_relay.setup.connect import rows, session
from dovetail_schemas.sql import queries

GENESIS: Final = "00" * 32
_FETCHED: Final = 1000
_FIELDS: Final = ("seq", "at_us", "actor", "action", "target", "reason", "before", "after", "prev_hash")

Head = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Chain:
    """What a walk over the chain found. `bad` is the first entry that is not what was written, and `why`."""

    entries: int
    head: Head | None
    bad: int | None = None
    why: str | None = None


def entries(
    settings: Settings, *, since: datetime | None, action: str | None, actor: str | None, most: int
) -> list[dict[str, Any]]:
    """The newest entries, newest first."""
    with session(settings, "operator") as connection:
        return rows(connection, queries["audit_list"], {"since": since, "action": action, "actor": actor, "most": most})


def verify(settings: Settings, anchor: Head | None) -> Chain:
    """Walk the chain from its beginning; `anchor` is a head that was seen before, from Kafka."""
    with session(settings, "operator") as connection, connection.transaction():
        return walk(_rows(connection), anchor)


def walk(chain: Iterable[Mapping[str, Any]], anchor: Head | None = None) -> Chain:
    """The same over rows that are here. Pure: stops at the first entry that does not fit."""
    seq, before, met = 0, GENESIS, anchor is None
    for row in chain:
        why = _misfit(row, seq, before)
        if why is None and anchor is not None and row["seq"] == anchor[0]:
            met = True
            if row["hash"] != anchor[1]:
                why = "the checkpoint in Kafka carries another hash of it: the chain was rewritten"
        if why is not None:
            return Chain(seq, (seq, before) if seq else None, row["seq"], why)
        seq, before = row["seq"], row["hash"]
    head = (seq, before) if seq else None
    if not met and anchor is not None:
        return Chain(
            seq, head, seq + 1, f"the checkpoint in Kafka knows entries up to {anchor[0]}: the newest are gone"
        )
    return Chain(seq, head)


def entry_hash(row: Mapping[str, Any]) -> str:
    """The hash that an entry must have: each field with its length before it, `-` for one that is not there."""
    parts = []
    for name in _FIELDS:
        value = row[name]
        if value is None:
            parts.append(b"-")
        else:
            text = str(value).encode()
            parts.append(b"%d:%b" % (len(text), text))
    return hashlib.sha256(b",".join(parts)).hexdigest()


def _misfit(row: Mapping[str, Any], seq: int, before: str) -> str | None:
    if row["seq"] != seq + 1:
        return f"entry {seq + 1} is not there"
    if row["prev_hash"] != before:
        return "it does not follow from the entry before it"
    if row["hash"] != entry_hash(row):
        return "its fields are not those that were hashed"
    return None


def _rows(connection: psycopg.Connection[Any]) -> Iterator[Mapping[str, Any]]:
    with connection.cursor("dovetail_audit") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(queries["audit_chain"])
        yield from cursor
