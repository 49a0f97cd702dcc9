"""Outbox and inbox for psycopg 3. The caller owns the transaction; nothing here begins, commits or rolls back one.

The sync and the async class differ in `await` alone. Statements run on cursors of our own, so a row factory or a
cursor class that the caller has set on the connection changes nothing.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dovetail import environment, errors, registration
from dovetail.inbox import Delivery, Message, Receiving
from dovetail.outbox import Publishing, Row
from dovetail.registration import Steps
from dovetail.statement import Statement

SyncSource: TypeAlias = psycopg.Connection[Any] | psycopg.Cursor[Any]
AsyncSource: TypeAlias = psycopg.AsyncConnection[Any] | psycopg.AsyncCursor[Any]

_Sync: TypeAlias = psycopg.Connection[Any]
_Async: TypeAlias = psycopg.AsyncConnection[Any]
_C = TypeVar("_C", _Sync, _Async)

__all__ = ["AsyncInbox", "AsyncOutbox", "Inbox", "Outbox", "aregister", "connect", "register"]


class Outbox(Publishing):
    """Publishes inside the caller's transaction. Holds no connection; share one per process."""

    def publish(
        self,
        conn: SyncSource,
        event: Any,
        *,
        headers: Mapping[str, str] | None = None,
        event_id: UUID | None = None,
        key: object = None,
    ) -> UUID:
        """Insert one event, an `Event` or an instance of a decorated class, and return its id.

        The event is published if and only if the transaction commits. One INSERT; the first event of a schema in a
        process costs a SELECT as well.
        """
        connection = _in_transaction(_sync(conn), errors.OutboxNotInTransaction, "publish")
        row = self.row(event, headers, event_id, key)
        self._check(connection, (row,))
        with _EXPLAINED:
            _cursor(connection).execute(*self.writing_one(row))
        return row.id

    def publish_many(self, conn: SyncSource, events: Iterable[Any]) -> list[UUID]:
        """Insert many events in their order, in one statement for up to 10,000; returns their ids."""
        connection = _in_transaction(_sync(conn), errors.OutboxNotInTransaction, "publish_many")
        rows = [self.row(event) for event in events]
        self._check(connection, rows)
        with _EXPLAINED:
            for statement in self.writing_many(rows):
                _cursor(connection).execute(*statement)
        return [row.id for row in rows]

    def _check(self, connection: _Sync, rows: Iterable[Row]) -> None:
        known = _known_schemas(connection)
        if self.mode == "wal" and registration.MESSAGES not in known:
            with _EXPLAINED:
                registration.require_messages(_cursor(connection).execute(*registration.messages_read()).fetchall())
            known.add(registration.MESSAGES)
        for fingerprint, kind in _unknown(rows, known).items():
            with _EXPLAINED:
                found = _cursor(connection).execute(*registration.lookup(fingerprint)).fetchall()
            if registration.is_lasting(kind, found):
                known.add(fingerprint)


class AsyncOutbox(Publishing):
    """`Outbox` for psycopg's AsyncConnection."""

    async def publish(
        self,
        conn: AsyncSource,
        event: Any,
        *,
        headers: Mapping[str, str] | None = None,
        event_id: UUID | None = None,
        key: object = None,
    ) -> UUID:
        """As `Outbox.publish`."""
        connection = _in_transaction(_async(conn), errors.OutboxNotInTransaction, "publish")
        row = self.row(event, headers, event_id, key)
        await self._check(connection, (row,))
        with _EXPLAINED:
            await _acursor(connection).execute(*self.writing_one(row))
        return row.id

    async def publish_many(self, conn: AsyncSource, events: Iterable[Any]) -> list[UUID]:
        """As `Outbox.publish_many`."""
        connection = _in_transaction(_async(conn), errors.OutboxNotInTransaction, "publish_many")
        rows = [self.row(event) for event in events]
        await self._check(connection, rows)
        with _EXPLAINED:
            for statement in self.writing_many(rows):
                await _acursor(connection).execute(*statement)
        return [row.id for row in rows]

    async def _check(self, connection: _Async, rows: Iterable[Row]) -> None:
        known = _known_schemas(connection)
        if self.mode == "wal" and registration.MESSAGES not in known:
            with _EXPLAINED:
                cursor = await _acursor(connection).execute(*registration.messages_read())
                registration.require_messages(await cursor.fetchall())
            known.add(registration.MESSAGES)
        for fingerprint, kind in _unknown(rows, known).items():
            with _EXPLAINED:
                cursor = await _acursor(connection).execute(*registration.lookup(fingerprint))
                found = await cursor.fetchall()
            if registration.is_lasting(kind, found):
                known.add(fingerprint)


class Inbox(Receiving):
    """Takes each event once inside the caller's transaction. Holds no connection; share one per process."""

    @contextmanager
    def receive(self, conn: SyncSource, message: Message) -> Iterator[Delivery]:
        """Take one Kafka message: `delivery.fresh` is False where this consumer took the event before.

        The receipt commits and rolls back with the caller's transaction: when the body raises, roll back.
        """
        connection = _in_transaction(_sync(conn), errors.InboxNotInTransaction, "receive")
        delivery, claim = self.claim(message)
        with _EXPLAINED:
            delivery.fresh = _cursor(connection).execute(*claim).rowcount == 1
        yield delivery
        _still_good(connection)


class AsyncInbox(Receiving):
    """`Inbox` for psycopg's AsyncConnection."""

    @asynccontextmanager
    async def receive(self, conn: AsyncSource, message: Message) -> AsyncIterator[Delivery]:
        """As `Inbox.receive`; a schema that must be fetched is fetched here, off the event loop."""
        connection = _in_transaction(_async(conn), errors.InboxNotInTransaction, "receive")
        delivery, claim = self.claim(message)
        with _EXPLAINED:
            delivery.fresh = (await _acursor(connection).execute(*claim)).rowcount == 1
        if delivery.fresh:
            await delivery.prefetch()
        yield delivery
        _still_good(connection)


def connect(dsn: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
    """A new connection in autocommit, so that `with conn.transaction():` is where a transaction begins and ends.

    Without a DSN to what `DOVETAIL_POSTGRES__APP_DSN` names. Any other psycopg connection serves Dovetail as well.
    """
    return psycopg.connect(environment.database() if dsn is None else dsn, autocommit=True)


def register(conn: SyncSource, *types: Any) -> None:
    """Put the schemas of event types into the database; types already there cost one read each.

    Outside a transaction it commits its own; inside one the registration is part of that transaction.
    """
    connection = _sync(conn)
    steps = registration.registering(types)
    with _EXPLAINED, connection.transaction():
        _run(_cursor(connection), steps)


async def aregister(conn: AsyncSource, *types: Any) -> None:
    """`register` for psycopg's AsyncConnection."""
    connection = _async(conn)
    steps = registration.registering(types)
    with _EXPLAINED:
        async with connection.transaction():
            await _arun(_acursor(connection), steps)


def _run(cursor: psycopg.RawCursor[Any], steps: Steps) -> None:
    statement = next(steps, None)
    while statement is not None:
        cursor.execute(*statement)
        statement = _send(steps, cursor.fetchall() if cursor.description else [])


async def _arun(cursor: psycopg.AsyncRawCursor[Any], steps: Steps) -> None:
    statement = next(steps, None)
    while statement is not None:
        await cursor.execute(*statement)
        statement = _send(steps, await cursor.fetchall() if cursor.description else [])


def _cursor(connection: _Sync) -> psycopg.RawCursor[Any]:
    return psycopg.RawCursor(connection, row_factory=tuple_row)


def _acursor(connection: _Async) -> psycopg.AsyncRawCursor[Any]:
    return psycopg.AsyncRawCursor(connection, row_factory=tuple_row)


def _send(steps: Steps, rows: registration.Rows) -> Statement | None:
    try:
        return steps.send(rows)
    except StopIteration:
        return None


def _sync(source: Any) -> _Sync:
    connection = source.connection if isinstance(source, psycopg.Cursor) else source
    if isinstance(connection, psycopg.Connection):
        return connection
    raise TypeError(_wrong(source, "a psycopg Connection or Cursor", "Async"))


def _async(source: Any) -> _Async:
    connection = source.connection if isinstance(source, psycopg.AsyncCursor) else source
    if isinstance(connection, psycopg.AsyncConnection):
        return connection
    raise TypeError(_wrong(source, "a psycopg AsyncConnection or AsyncCursor", ""))


def _wrong(source: object, wanted: str, other: str) -> str:
    hint = ""
    if isinstance(source, psycopg.Connection | psycopg.Cursor | psycopg.AsyncConnection | psycopg.AsyncCursor):
        hint = "; use AsyncOutbox, AsyncInbox and aregister" if other else "; use Outbox, Inbox and register"
    return f"a {type(source).__name__} is not {wanted}{hint}"


def _in_transaction(connection: _C, error: type[errors.DovetailError], verb: str) -> _C:
    # A failed transaction and a closed connection are left to the server and to psycopg, whose words are then chained.
    if connection.autocommit and _is_alone(connection):
        raise error(f"{verb} needs the transaction of your business rows: with conn.transaction(): …{verb}(conn, …)")
    return connection


def _is_alone(connection: _Sync | _Async) -> bool:
    status = connection.pgconn.transaction_status
    if status == TransactionStatus.ACTIVE:
        # In a pipeline the server has not answered yet; conn.transaction() keeps its own count meanwhile.
        return not getattr(connection, "_num_transactions", 1)
    return status == TransactionStatus.IDLE


def _still_good(connection: _Sync | _Async) -> None:
    # A handler that swallowed a database error leaves a transaction whose COMMIT the server answers by rolling back,
    # without an error: the offset would be committed and the effect be lost.
    if connection.pgconn.transaction_status == TransactionStatus.INERROR:
        raise errors.TransactionFailed("a statement failed and its error was swallowed; the transaction cannot commit")


def _unknown(rows: Iterable[Row], known: set[bytes]) -> dict[bytes, str]:
    """The schemas, with a type that uses each, that this database has not yet been seen to hold for good."""
    return {row.schema_fingerprint: row.type for row in rows if row.schema_fingerprint not in known}


# One set of schemas per database, found through the connection: asking libpq for host and name each time is dearer.
_by_database: dict[tuple[str, int, str], set[bytes]] = {}
_by_connection: WeakKeyDictionary[Any, set[bytes]] = WeakKeyDictionary()


def _known_schemas(connection: _Sync | _Async) -> set[bytes]:
    known = _by_connection.get(connection)
    if known is None:
        info = connection.info
        known = _by_database.setdefault((info.host or info.hostaddr, info.port, info.dbname), set())
        _by_connection[connection] = known
    return known


class _Explained:
    """Turns what the server says about our own statements into errors that name the remedy; the cause is chained.

    Everything else passes unchanged, above all 40001 and 40P01, which the caller's retry looks for.
    """

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, psycopg.Error) and error.sqlstate in _REMEDIES:
            name, text = _REMEDIES[error.sqlstate]
            raise name(text) from error


_EXPLAINED = _Explained()
_REMEDIES: dict[str, tuple[type[errors.DovetailError], str]] = {
    "25P02": (errors.TransactionFailed, "the transaction already failed; roll it back first"),
    "25006": (
        errors.ReadOnlyServer,
        "connected to a read-only server or transaction; connect to the primary (target_session_attrs=read-write)",
    ),
    "23505": (
        errors.DuplicateEventId,
        "an event with this id was already published today; leave event_id out, or roll back and skip the event",
    ),
    "3F000": (errors.NotInstalled, "this database has no schema 'dovetail'; run `dovetail init`"),
    "42P01": (errors.NotInstalled, "this database lacks Dovetail's tables; run `dovetail init`"),
    "42501": (
        errors.NotInstalled,
        "this role may not use Dovetail's tables, or no relay reads them; GRANT dovetail_app TO it, or `dovetail init`",
    ),
}
