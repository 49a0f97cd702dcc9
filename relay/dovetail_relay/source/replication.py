"""The replication stream: the only module that touches `psycopg.pq`, and the only one that sends a flush position.

psycopg has no replication API; its libpq wrapper has all that one needs. What comes out of `read` are the
frames of pgoutput messages and, in the same form, the positions of keepalives, in the order in which the server sent
them: a keepalive never overtakes data.

Feedback is a number, not a callback: `report(lsn)` stores the newest durable position, and the stream decides when to
send it: when the server asks, when it has moved, and often enough that the server never thinks us dead. The flush
position never goes back, and never beyond what was reported.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import psycopg
from psycopg import pq

from dovetail_relay.errors import (
    Misconfigured,
    PostgresUnavailable,
    SlotLost,
    StreamEnded,
)
from dovetail_relay.nouns import Lsn, lsn_text

# A keepalive as the pipeline sees it: a frame whose body is this tag and the position.
KEEPALIVE: Final = ord("k")
_KEEPALIVE_FRAME: Final = b"w" + bytes(24) + b"k"
_KEEPALIVE = Struct("!xQqB")
_STATUS = Struct("!cQQQqb")
_XLOG_DATA: Final = ord("w")
# µs between 1970-01-01 and 2000-01-01, PostgreSQL's epoch.
_EPOCH_US: Final = 946_684_800_000_000
# A position that moved is sent at most this often: the server needs no feedback per batch.
_MOVED_INTERVAL: Final = 0.1
# A third of the server's smallest sensible wal_sender_timeout (30 s): it never takes us for dead.
_ALIVE_INTERVAL: Final = 10.0
# While rows pour in, a nap lets the walsender fill the socket instead of waking us for each message.
_NAP_SECONDS: Final = 0.001

SLOT_BUSY: Final = "55006"


# A refused connection carries no SQLSTATE in libpq: these words are all there is, and where a server speaks another
# language the relay goes on trying instead.
_LOGIN_REFUSED: Final = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "is not permitted to log in",
)
# The words of 16 and later, and those of 15.
_REPLICATION_REFUSED: Final = ("to start WAL sender", "to start walsender")
# What no second attempt cures; the doctor tells the CA file and the dates. A handshake cut short is not among them.
_TLS_REFUSED: Final = (
    "certificate verify failed",
    "does not match host name",
    "does not support SSL",
    "root certificate file",
)


class SlotBusy(PostgresUnavailable):
    """Another walsender streams from the slot. The advisory lock says who may; the holder is a zombie or a stranger."""

    name = "SLOT_BUSY"


def server_error(error: psycopg.Error, what: str) -> Exception:
    """The named error for what the server answered, by SQLSTATE and never by text (which differs by version)."""
    state = error.sqlstate
    text = str(error).strip() or type(error).__name__
    if state == SLOT_BUSY:
        return SlotBusy(f"{what}: {text}")
    if state in {"42704", "55000"}:
        return SlotLost(f"{what}: {text}")
    if state in {"42501", "28000", "28P01", "3D000"}:
        return Misconfigured(f"{what}: {text}")
    if state is None and (any(words in text for words in _LOGIN_REFUSED) or _names_nobody(text)):
        return Misconfigured(f"{what}: {text}")
    if any(words in text for words in _REPLICATION_REFUSED):
        remedy = "ALTER ROLE … REPLICATION, as a superuser (dovetail init --print-sql)"
        return Misconfigured(f"{what}: the role of postgres.dsn may not replicate: {text}", remedy=remedy)
    if any(words in text for words in _TLS_REFUSED):
        return Misconfigured(f"{what}: {text}")
    if "unsupported startup parameter" in text:
        return Misconfigured(
            f"{what}: the DSN leads through a pooler that cannot replicate; connect directly or use pgbouncer 1.23+"
        )
    return PostgresUnavailable(f"{what}: {text}")


def _names_nobody(text: str) -> bool:
    return "does not exist" in text and ("database " in text or "role " in text)


def connect(conninfo: str) -> psycopg.Connection:
    """A replication connection; raises a named error."""
    try:
        return psycopg.connect(conninfo, autocommit=True, replication="database")
    except psycopg.Error as error:
        raise server_error(error, "replication connection") from error


class Connector:
    """A replication connection that is opened before it is needed and used for one thing after the other.

    A leader asks it who the server is, then streams over it. Not thread-safe: the relay's loop owns it.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None

    def open(self) -> psycopg.Connection:
        """The connection, the same one again until it is taken. Raises a named error."""
        self._connection = self._connection or connect(self._conninfo)
        return self._connection

    def take(self) -> psycopg.Connection:
        """The connection is the caller's from here on; the next one will be new."""
        connection, self._connection = self.open(), None
        return connection

    def close(self) -> None:
        """Close what was opened and not taken."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def start_statement(slot: str, start: Lsn, publication: str, *, messages: bool) -> str:
    """START_REPLICATION takes no parameters: quoted here, from names that the configuration has validated."""
    quoted_publication = _literal('"' + publication.replace('"', '""') + '"')
    options = [("proto_version", "'1'"), ("publication_names", quoted_publication), ("binary", "'true'")]
    if messages:
        options.append(("messages", "'true'"))
    listed = ", ".join(f"{name} {value}" for name, value in options)
    quoted_slot = '"' + slot.replace('"', '""') + '"'
    return f"START_REPLICATION SLOT {quoted_slot} LOGICAL {lsn_text(start)} ({listed})"


def open_stream(conninfo: str, **options: Any) -> ReplicationStream:
    """A stream on a connection of its own, which is closed where the server refuses the stream."""
    connection = connect(conninfo)
    try:
        return ReplicationStream(connection, **options)
    except BaseException:
        connection.close()
        raise


class ReplicationStream:
    """One open stream. Not thread-safe: the relay's loop owns it.

    A frame of more than `largest` bytes comes out as `shortened` makes it; of its size is then nothing but libpq's own
    buffer, which lives as long as the stream.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        *,
        slot: str,
        publication: str,
        start: Lsn,
        messages: bool = False,
        largest: int = sys.maxsize,
        shortened: Callable[[memoryview], bytes] = bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._slot = slot
        self._largest = largest
        self._shortened = shortened
        self._clock = clock
        self._reported = start
        self._sent: Lsn = start
        self._received = start
        self._sent_at = self._asked_at = clock()
        self._reply_wanted = False
        self.drained = True
        self._pending_output = False
        self._last_read_at = 0.0
        self._bytes_read = 0
        result = self._pgconn.exec_(start_statement(slot, start, publication, messages=messages).encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            state = _sqlstate(result)
            kind = psycopg.OperationalError if state is None else psycopg.errors.lookup(state)
            raise server_error(kind(_message(result)), f"START_REPLICATION on slot {slot!r}")
        self._pgconn.nonblocking = 1

    def fileno(self) -> int:
        """The socket, for a poll."""
        return self._pgconn.socket

    @property
    def received(self) -> Lsn:
        """The newest position the server has named in data or keepalives."""
        return self._received

    @property
    def confirmed(self) -> Lsn:
        """The newest flush position that was sent."""
        return self._sent

    def report(self, lsn: Lsn) -> None:
        """`lsn` is durable in Kafka: the server may forget what lies before it. Never goes back."""
        self._reported = max(self._reported, lsn)

    def read(self, limit: int, room: int = sys.maxsize) -> list[bytes]:
        """Up to `limit` frames that are here already, or as many as reach `room` bytes; [] where none is.

        Never waits for the network. `drained` is then whether there was no more.
        """
        pgconn = self._pgconn
        get, largest = pgconn.get_copy_data, self._largest
        out: list[bytes] = []
        append = out.append
        tried = fresh = False  # whether the socket was read, and whether that brought a message
        try:
            self.drained = False
            while len(out) < limit and room > 0:
                size, data = get(1)
                if size > 0:
                    fresh = True
                    room -= size
                    if size > largest:
                        append(self._shortened(data))
                        # Before the next one comes: two of them would be in memory otherwise.
                        del data
                        continue
                    frame = bytes(data)
                    append(frame if frame[0] == _XLOG_DATA else self._keepalive(frame))
                elif size == 0:
                    # libpq takes in what its buffer has room for, some 16 KB: until nothing comes any more.
                    if tried and not fresh:
                        self.drained = True
                        break
                    pgconn.consume_input()
                    tried, fresh = True, False
                else:
                    raise self._ended()
        except psycopg.Error as error:
            raise StreamEnded(f"replication stream of slot {self._slot!r}: {error}") from error
        return out

    def nap_if_busy(self) -> None:
        """Called before a read that the poll announced: when rows pour in, let the socket fill first."""
        now = self._clock()
        if now - self._last_read_at < _NAP_SECONDS * 2:
            time.sleep(_NAP_SECONDS)
            now = self._clock()
        self._last_read_at = now

    def heartbeat(self) -> None:
        """Send feedback if the server asked, if the position moved, or if it is time. Never waits."""
        try:
            if self._pending_output:
                self._pending_output = bool(self._pgconn.flush())
            now = self._clock()
            moved = self._reported > self._sent and now - self._sent_at >= _MOVED_INTERVAL
            if now - self._asked_at >= _ALIVE_INTERVAL:
                # Ask for an answer: on an idle database our own feedback keeps the server from ever speaking, and a
                # dead connection would look like a quiet one.
                self._asked_at = now
                self._send(now, ask=True)
            elif self._reply_wanted or moved:
                self._send(now)
        except psycopg.Error as error:
            raise StreamEnded(f"replication stream of slot {self._slot!r}: {error}") from error

    def close(self) -> None:
        """Say how far we came, end the stream and free the slot. Safe to call twice; never raises."""
        if self._connection.closed:
            return
        try:
            if self._reported > self._sent:
                self._send(self._clock())
            self._pgconn.put_copy_end()
            _flush(self._pgconn, self._clock() + 0.5)
        except psycopg.Error:
            pass  # the connection is gone: the slot is free, and the server knows an older position, which is safe
        finally:
            self._connection.close()

    def _keepalive(self, data: bytes) -> bytes:
        wal_end, _sent_us, reply = _KEEPALIVE.unpack(data)
        if reply:
            self._reply_wanted = True
        self._received = max(self._received, Lsn(wal_end))
        return _KEEPALIVE_FRAME + data[1:9]

    def _send(self, now: float, *, ask: bool = False) -> None:
        flush = self._reported
        # Written and flushed are the same to us: what is not durable in Kafka was not received.
        frame = _STATUS.pack(b"r", flush, flush, flush, time.time_ns() // 1000 - _EPOCH_US, ask)
        self._pgconn.put_copy_data(frame)
        self._pending_output = bool(self._pgconn.flush())
        self._sent, self._sent_at, self._reply_wanted = flush, now, False

    def _ended(self) -> Exception:
        result = self._pgconn.get_result()
        if result is None:
            return StreamEnded(f"the server ended the stream of slot {self._slot!r}")
        state, text = _sqlstate(result), _message(result)
        if state in {"42704", "55000"}:
            # Publication gone (15 to 17 say so) or WAL removed under the slot: the next admission names it.
            return StreamEnded(f"stream of slot {self._slot!r} refused: {text}")
        words = f"the server ended the stream of slot {self._slot!r}: {text or 'no reason given'}"
        return StreamEnded(words, sqlstate=state, at=self._reported)


def _flush(pgconn: pq.abc.PGconn, deadline: float) -> None:
    while pgconn.flush():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        select.select([], [pgconn.socket], [], left)


def _sqlstate(result: pq.abc.PGresult) -> str | None:
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    return None if state is None else state.decode()


def _message(result: pq.abc.PGresult) -> str:
    text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    return (text or result.error_message or b"").decode(errors="replace").strip()
