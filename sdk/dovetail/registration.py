"""Putting schemas into the database, as generators that yield statements and are sent their rows.

Registering is idempotent and safe to race: every INSERT gives way to a row that is there, and what is there is read
back afterwards.
"""

from collections.abc import Generator, Iterable
from typing import Any

from dovetail.errors import MessagesNotRead, SchemaIdCollision, SchemaNotRegistered
from dovetail.event import EventType
from dovetail.statement import Statement
from dovetail_schemas.sql import queries

Rows = list[tuple[Any, ...]]
Steps = Generator[Statement, Rows, None]

# Stands among a database's known fingerprints (16 bytes each) for "a relay reads messages here".
MESSAGES = b"messages"


def registering(sources: Iterable[Any]) -> Steps:
    """Register the schema of each event type under its subject. Types already there cost one read each."""
    for source in sources:
        yield from _registering_one(EventType.of(source))


def _registering_one(kind: EventType) -> Steps:
    codec = kind.codec
    exists = Statement(queries["schema_version_exists"], (kind.subject, codec.fingerprint))
    # Each turn that finds nothing to do lost a race to a neighbour that did something, so this ends.
    while not (yield exists):
        yield Statement(queries["schema_insert"], (codec.fingerprint, codec.schema_id, codec.normalised))
        if not (yield Statement(queries["schema_lasting"], (codec.fingerprint,))):
            raise SchemaIdCollision(
                f"{kind.subject}: another schema has the id {codec.schema_id}; "
                "change this one in any way (a doc text will do) and register it again"
            )
        yield Statement(queries["schema_version_insert"], (kind.subject, codec.fingerprint))


def lookup(fingerprint: bytes) -> Statement:
    """The question whose answer `is_lasting` reads."""
    return Statement(queries["schema_lasting"], (fingerprint,))


def is_lasting(kind: str, rows: Rows) -> bool:
    """Whether the schema is registered for good, so that the answer may be kept for the life of the process.

    False where it was registered by the open transaction itself, which may still roll back. Raises
    `SchemaNotRegistered` where it is not there at all.
    """
    if not rows:
        raise SchemaNotRegistered(
            f"{kind}: this database does not know its schema; call dovetail.register(conn, {kind}) at start-up"
        )
    return bool(rows[0][0])


def messages_read() -> Statement:
    """The question whose answer `require_messages` reads."""
    return Statement(queries["outbox_messages_read"], ())


def require_messages(rows: Rows) -> None:
    """Raise `MessagesNotRead` unless a relay of this database reads logical messages."""
    if not rows or not rows[0][0]:
        raise MessagesNotRead(
            "no relay of this database reads logical messages, so the event would be lost; "
            "start the relay with [outbox] messages = true, or use Outbox() without mode"
        )
