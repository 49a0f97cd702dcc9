"""From event to outbox row: every check that needs no server, and the statements that insert."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from dovetail.errors import EventIdInvalid, HeaderInvalid, PayloadTooLarge
from dovetail.event import Event, EventType
from dovetail.ids import uuid7
from dovetail.statement import Statement
from dovetail_schemas import envelope
from dovetail_schemas import headers as header_names
from dovetail_schemas.sql import queries

# librdkafka and the broker both stop at about a megabyte by default; the rest is room for key, headers and framing.
MAX_PAYLOAD_BYTES = 900_000
MAX_HEADERS_BYTES = 32_768
# A statement's parameters travel as one protocol message of less than a gigabyte, and are in memory twice.
STATEMENT_BYTES = 32 * 1024 * 1024
STATEMENT_ROWS = 10_000

Mode = Literal["table", "wal"]

_NIL = UUID(int=0)
_NO_HEADERS: Final = "{}"
_HEADER_NAME = re.compile(r"[!-~]{1,200}", re.ASCII)


class Row(NamedTuple):
    """One outbox row in the order of the INSERT's placeholders."""

    id: UUID
    aggregatetype: str
    aggregateid: str
    type: str
    payload: bytes
    schema_fingerprint: bytes
    headers: str


class Publishing:
    """What every driver's Outbox shares: limits, and rows and statements from events. Holds no connection.

    `mode="table"` inserts a row. `mode="wal"` writes the event into the write-ahead log alone: no table and no vacuum,
    but what is published once is gone: no replay, no recovery after the loss of the slot, no refusal of an id used
    twice. The relay must read messages (`[outbox] messages = true`, then `dovetail init`); otherwise publishing is
    refused with `MessagesNotRead`.
    """

    def __init__(self, *, mode: Mode = "table", max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        if max_payload_bytes < 1:
            raise ValueError(f"max_payload_bytes is {max_payload_bytes}; it must be at least 1")
        if mode not in {"table", "wal"}:
            raise ValueError(f"mode is {mode!r}; it must be 'table' or 'wal'")
        self.mode = mode
        self.max_payload_bytes = max_payload_bytes

    def writing_one(self, row: Row) -> Statement:
        """The statement that writes one event."""
        return insert_one(row) if self.mode == "table" else Statement(queries["outbox_emit"], (packed(row),))

    def writing_many(self, rows: Iterable[Row]) -> Iterator[Statement]:
        """As few statements as size allows, in order; usually one."""
        return insert_many(rows) if self.mode == "table" else map(_emit_batch, _batches(rows))

    def row(
        self,
        event: Any,
        headers: Mapping[str, str] | None = None,
        event_id: UUID | None = None,
        key: object = None,
    ) -> Row:
        """Encode and check one event. Raises before anything is sent."""
        if type(event) is Event:
            kind, payload = event.type, event.payload
            key = event.key if key is None else key
            event_id = event_id if event_id is not None else event.id
            headers = {**event.headers, **headers} if headers else event.headers
        else:
            kind, payload = EventType.of(event), event
        text = kind.key_of(payload, key)
        body = kind.codec.encode(payload)
        if len(body) > self.max_payload_bytes:
            raise PayloadTooLarge(
                f"{kind.name}: {len(body)} bytes are more than the {self.max_payload_bytes} allowed; "
                "store the large part elsewhere and publish a reference to it"
            )
        return Row(
            uuid7() if event_id is None else _checked_id(event_id),
            kind.aggregate,
            text,
            kind.name,
            body,
            kind.fingerprint,
            headers_json(headers) if headers else _NO_HEADERS,
        )


def insert_one(row: Row) -> Statement:
    """The INSERT of one row."""
    return Statement(queries["outbox_insert"], row)


def insert_many(rows: Iterable[Row]) -> Iterator[Statement]:
    """As few INSERTs as size allows, in order; usually one."""
    return map(_insert_batch, _batches(rows))


def packed(row: Row) -> bytes:
    """The event as the content of a logical message."""
    return envelope.pack(
        envelope.Envelope(
            row.id.bytes,
            row.aggregatetype.encode(),
            row.aggregateid.encode(),
            row.type.encode(),
            row.schema_fingerprint,
            b"avro",
            b"" if row.headers == _NO_HEADERS else row.headers.encode(),
            row.payload,
        )
    )


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (size + len(row.payload) > STATEMENT_BYTES or len(batch) == STATEMENT_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.payload)
    if batch:
        yield batch


def _insert_batch(batch: list[Row]) -> Statement:
    return Statement(queries["outbox_insert_many"], tuple(map(list, zip(*batch, strict=True))))


def _emit_batch(batch: list[Row]) -> Statement:
    return Statement(queries["outbox_emit_many"], ([packed(row) for row in batch],))


def headers_json(headers: Mapping[str, str]) -> str:
    """User headers as the text of a jsonb object, or `HeaderInvalid`."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            shown = repr(name[:80]) if isinstance(name, str) else type(name).__name__
            raise HeaderInvalid(f"the header name {shown} must be 1 to 200 printable ASCII characters without space")
        if header_names.is_reserved(name):
            raise HeaderInvalid(f"the header {name!r} is set by Dovetail; use another name")
        if not isinstance(value, str):
            raise HeaderInvalid(f"the header {name!r} is a {type(value).__name__}; it must be a str")
        if "\0" in value or not _is_text(value):
            raise HeaderInvalid(f"the header {name!r} has a NUL or a lone surrogate, which is not text")
    text = json.dumps(dict(headers), separators=(",", ":"))
    if len(text) > MAX_HEADERS_BYTES:
        raise HeaderInvalid(f"the headers have {len(text)} bytes; at most {MAX_HEADERS_BYTES} are allowed")
    return text


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_id(event_id: object) -> UUID:
    if isinstance(event_id, str):
        try:
            event_id = UUID(event_id)
        except ValueError:
            raise EventIdInvalid(f"{str(event_id)[:80]!r} is not a UUID") from None
    if not isinstance(event_id, UUID):
        raise EventIdInvalid(f"the event id is a {type(event_id).__name__}; it must be a UUID")
    if event_id == _NIL:
        raise EventIdInvalid("the nil UUID cannot be an event id; leave it out and a UUIDv7 is made")
    return event_id
