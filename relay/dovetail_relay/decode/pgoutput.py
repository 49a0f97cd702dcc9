"""pgoutput bytes to values: what the walsender says, protocol 1, binary columns.

Pure: bytes in, values out. Each parser is bounds-checked by its end: a declared length that leaves the buffer, or bytes
left over, raise `MalformedMessage` and nothing else. No object is made per message but the row's own list of values,
since this runs for every row; what streams is parsed in place, behind the 25 bytes of the replication protocol's own
header (`BODY`), for the same reason.

An outbox row is the raw column values in the order of `FIELDS`, `created_at` as µs since 2000-01-01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from dovetail_relay.errors import OutboxAltered, StuckMessage
from dovetail_relay.nouns import Lsn, OutboxTable

FIELDS: Final = (
    "id",
    "aggregatetype",
    "aggregateid",
    "type",
    "payload",
    "schema_fingerprint",
    "encoding",
    "headers",
    "created_at",
)
REQUIRED: Final = FIELDS[:5]
# The table that Dovetail makes. Of any other, an optional column counts only where it is what we would have made.
OUTBOX: Final = ("dovetail", "outbox")

Row: TypeAlias = Sequence[Any]

# Message tags, as the first byte of a pgoutput message.
BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
RELATION: Final = ord("R")
INSERT: Final = ord("I")

# 'w', start, end, send time: what comes before the pgoutput message in a frame of the replication protocol.
BODY: Final = 25
# Where an Insert's frame names its table, as four raw bytes.
OID: Final = slice(BODY + 1, BODY + 5)
_BEGIN = Struct("!xQqI")
_COMMIT = Struct("!xBQQq")
_INSERT = Struct(f"!{BODY + 1}xIBH")
_COLUMN = Struct("!Bi")
_ATTRIBUTE = Struct("!Ii")
_INSERT_BYTES: Final = 8
_NULL: Final = ord("n")
_BINARY: Final = ord("b")
_VALUE_KINDS: Final = frozenset((ord("b"), ord("t")))

# Type OIDs are fixed in PostgreSQL's catalogue (pg_type.dat).
_BYTEA, _TEXT, _VARCHAR, _UUID, _JSONB, _JSON, _TIMESTAMPTZ = 17, 25, 1043, 2950, 3802, 114, 1184
_TYPES: Final[dict[str, frozenset[int]]] = {
    "id": frozenset((_UUID,)),
    "aggregatetype": frozenset((_TEXT, _VARCHAR)),
    "aggregateid": frozenset((_TEXT, _VARCHAR)),
    "type": frozenset((_TEXT, _VARCHAR)),
    "payload": frozenset((_BYTEA, _TEXT, _VARCHAR, _JSONB, _JSON)),
    "schema_fingerprint": frozenset((_BYTEA,)),
    "encoding": frozenset((_TEXT, _VARCHAR)),
    "headers": frozenset((_JSONB,)),
    "created_at": frozenset((_TIMESTAMPTZ,)),
}


# For messages. What is not allowed has a name where somebody asked the catalogue.
_TYPE_NAMES: Final = {
    _BYTEA: "bytea", _TEXT: "text", _VARCHAR: "varchar", _UUID: "uuid", _JSONB: "jsonb", _JSON: "json",
    _TIMESTAMPTZ: "timestamptz", 16: "boolean", 20: "bigint", 21: "smallint", 23: "integer", 1042: "char",
    1082: "date", 1114: "timestamp", 1700: "numeric",
}  # fmt: skip


class MalformedMessage(ValueError):
    """Bytes that are no pgoutput message. Says where, never what."""


class Moment:
    """When the transaction whose rows are being read was committed: the time of events that carry none themselves."""

    __slots__ = ("commit_us",)

    def __init__(self) -> None:
        self.commit_us = 0


class Begin(NamedTuple):
    """`final_lsn` is the LSN of the commit record: known before the first row."""

    final_lsn: Lsn
    commit_us: int
    xid: int


class Commit(NamedTuple):
    """`end_lsn` is the first byte after the commit record: the only position that may be confirmed."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_us: int


class Column(NamedTuple):
    name: str
    type_oid: int


class Relation(NamedTuple):
    """`oid` as the four raw bytes that each Insert of this table carries."""

    oid: bytes
    namespace: str
    name: str
    columns: tuple[Column, ...]


def begin(data: bytes) -> Begin:
    """A Begin message; `commit_us` in µs since 2000-01-01."""
    if len(data) != _BEGIN.size:
        raise MalformedMessage(f"Begin has {len(data)} bytes, not {_BEGIN.size}")
    final_lsn, commit_us, xid = _BEGIN.unpack(data)
    return Begin(Lsn(final_lsn), commit_us, xid)


def sent_us(frame: bytes) -> int:
    """When the server sent this frame, µs since 2000-01-01 by its clock."""
    return int.from_bytes(frame[17:25], "big", signed=True)


def commit(data: bytes) -> Commit:
    """A Commit message."""
    if len(data) != _COMMIT.size:
        raise MalformedMessage(f"Commit has {len(data)} bytes, not {_COMMIT.size}")
    _flags, commit_lsn, end_lsn, commit_us = _COMMIT.unpack(data)
    return Commit(Lsn(commit_lsn), Lsn(end_lsn), commit_us)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def relation(data: bytes) -> Relation:
    """A Relation message: sent before the first row of a table and again after each DDL on it."""
    try:
        oid = data[1:5]
        namespace, at = _text(data, 5)
        name, at = _text(data, at)
        count = int.from_bytes(data[at + 1 : at + 3], "big")
        at += 3
        columns = []
        for _ in range(count):
            column, at = _text(data, at + 1)
            type_oid, _modifier = _ATTRIBUTE.unpack_from(data, at)
            at += _ATTRIBUTE.size
            columns.append(Column(column, type_oid))
    except (struct_error, ValueError) as error:
        raise MalformedMessage(f"Relation of {len(data)} bytes ends early") from error
    if at != len(data):
        raise MalformedMessage(f"Relation of {len(data)} bytes says it has {at}")
    return Relation(oid, namespace, name, tuple(columns))


def as_now(then: Relation, now: OutboxTable, columns: Mapping[str, str]) -> Relation:
    """A table as a transaction saw it, under the names that it and its columns have now.

    A column that was renamed is the same one: its place and its type say so, where no other has moved. That is looked
    at only where one that is read now was not there under its name.
    """
    then = then._replace(namespace=now.schema, name=now.name)
    had, has = [column.name for column in then.columns], [name for name, _ in now.columns]
    wanted = {columns.get(field, field) for field in FIELDS}.intersection(has)
    if wanted.issubset(had) or [column.type_oid for column in then.columns] != [
        type_oid for _, type_oid in now.columns
    ]:
        return then
    renamed = [(before, after) for before, after in zip(had, has, strict=True) if before != after]
    if any(before in has or after in had for before, after in renamed):
        return then
    return then._replace(columns=tuple(Column(name, type_oid) for name, type_oid in now.columns))


def insert(frame: bytes) -> list[Any]:
    """The raw column values of an Insert, in the table's order; `frame` with its replication header."""
    at = BODY + _INSERT_BYTES
    try:
        _oid, new, count = _INSERT.unpack_from(frame)
        values: list[Any] = []
        append = values.append
        header = _COLUMN.unpack_from
        for _ in range(count):
            if frame[at] == _NULL:
                append(None)
                at += 1
                continue
            kind, length = header(frame, at)
            if kind not in _VALUE_KINDS or length < 0:
                raise MalformedMessage(f"column of kind {kind} at byte {at}")
            at += 5
            end = at + length
            append(frame[at:end])
            at = end
    except (struct_error, IndexError) as error:
        raise MalformedMessage(f"Insert of {len(frame)} bytes ends early") from error
    if at != len(frame) or new != ord("N"):
        raise MalformedMessage(f"Insert of {len(frame)} bytes says it has {at}")
    return values


# What our own SDK's rows have in common, byte for byte: nine columns, the first a uuid; three texts under 256 bytes;
# and after the payload a fingerprint, `avro`, empty headers and a timestamp, in 51 bytes.
_USUAL_START: Final = b"N\x00\x09b\x00\x00\x00\x10"
_SHORT: Final = b"b\x00\x00\x00"
_USUAL_TAIL: Final = 51
_FINGERPRINT: Final = b"b\x00\x00\x00\x10"
_USUAL_MIDDLE: Final = b"b\x00\x00\x00\x04avrob\x00\x00\x00\x03\x01{}b\x00\x00\x00\x08"
_AVRO: Final = b"avro"
_EMPTY: Final = b"\x01{}"
_UUID_BYTES: Final = 16
_PAYLOAD: Final = FIELDS.index("payload")
_ENCODING: Final = FIELDS.index("encoding")
_HEADERS: Final = FIELDS.index("headers")
_START: Final = BODY + 5
_ID: Final = _START + len(_USUAL_START)
_TEXTS: Final = _ID + 16


def usual_insert(frame: bytes) -> Row:
    """A row of our own table: the fast way for rows as our SDK writes them, `insert` for all others.

    The hottest function of the relay. It recognises the usual shape by comparing its constant parts, so that nine
    columns cost four look-ups of a length and not nine.
    """
    try:
        text = _TEXTS + 5 + frame[_TEXTS + 4]
        key = text + 5 + frame[text + 4]
        kind = key + 5 + frame[key + 4]
        tail = len(frame) - _USUAL_TAIL
        if (
            frame[_START:_ID] == _USUAL_START
            and frame[_TEXTS : _TEXTS + 4] == frame[text : text + 4] == frame[key : key + 4] == _SHORT
            and frame[tail : tail + 5] == _FINGERPRINT
            and frame[tail + 21 : -8] == _USUAL_MIDDLE
            and frame[kind] == _BINARY
            and int.from_bytes(frame[kind + 1 : kind + 5], "big") == tail - kind - 5
        ):
            return (
                frame[_ID:_TEXTS],
                frame[_TEXTS + 5 : text],
                frame[text + 5 : key],
                frame[key + 5 : kind],
                frame[kind + 5 : tail],
                frame[tail + 5 : tail + 21],
                _AVRO,
                _EMPTY,
                int.from_bytes(frame[-8:], "big", signed=True),
            )
    except IndexError:
        pass  # too short for the usual shape: `insert` says what is wrong, if anything
    return standard_row(insert(frame))


def row_reader(found: Relation, columns: Mapping[str, str], moment: Moment | None = None) -> Callable[[bytes], Row]:
    """A function from an Insert's frame to a row in the order of `FIELDS`.

    `columns` maps our field names to the table's own; `moment` dates rows without a `created_at`. Raises OutboxAltered
    where a needed column is gone or has a type that the relay cannot read. The function raises StuckMessage (`null`)
    for a row without id, aggregate type, key or type.
    """
    places = columns_read(found, columns)
    width = len(found.columns)
    payload_type = found.columns[places["payload"]].type_oid
    if (
        _is_ours(found)
        and tuple(places) == FIELDS
        and list(places.values()) == list(range(width))
        and payload_type == _BYTEA
    ):
        return usual_insert
    dated = moment or Moment()
    # What a column that the table does not have counts as (Debezium's own layout has the first five only).
    encoding = _AVRO if payload_type == _BYTEA else b"json"
    absent = {"schema_fingerprint": None, "encoding": encoding, "headers": _EMPTY, "created_at": None}
    rest = [absent.get(field) for field in FIELDS]
    pick = itemgetter(*(places.get(field, width + index) for index, field in enumerate(FIELDS)))
    is_jsonb = payload_type == _JSONB

    def read(frame: bytes) -> Row:
        values = insert(frame)
        if len(values) != width:
            raise MalformedMessage(f"Insert has {len(values)} columns, its table {width}")
        row = list(pick(values + rest))
        if is_jsonb and row[_PAYLOAD] is not None:
            # jsonb in binary is a version byte and then the text.
            row[_PAYLOAD] = row[_PAYLOAD].removeprefix(b"\x01")
        if not (row[1] and row[2] and row[3]):
            raise _null(row[0])
        if row[_ENCODING] is None:
            row[_ENCODING] = encoding
        if row[_HEADERS] is None:
            row[_HEADERS] = _EMPTY
        return standard_row(row, dated.commit_us)

    return read


def _is_ours(found: Relation) -> bool:
    """Whether it is the table that Dovetail makes, or a leaf of it."""
    return found.namespace == OUTBOX[0] and found.name.startswith(OUTBOX[1])


def columns_read(
    found: Relation, columns: Mapping[str, str], type_names: Mapping[int, str] = _TYPE_NAMES
) -> dict[str, int]:
    """Field → its place among the table's columns, in the order of `FIELDS`. Raises OutboxAltered as `row_reader`."""
    places = {column.name: index for index, column in enumerate(found.columns)}
    read: dict[str, int] = {}
    for field in FIELDS:
        column = columns.get(field, field)
        needed = field in REQUIRED or field in columns or _is_ours(found)
        if column not in places:
            if needed:
                raise OutboxAltered(
                    f"table {found.namespace}.{found.name} sends no column {column!r}, but {', '.join(places)}; "
                    "give it its name back, or name it under [outbox.columns]"
                )
            continue
        type_oid = found.columns[places[column]].type_oid
        if type_oid in _TYPES[field]:
            read[field] = places[column]
        elif needed:
            raise OutboxAltered(
                f"column {column!r} of {found.namespace}.{found.name} has the type "
                f"{type_names.get(type_oid, f'with OID {type_oid}')}; "
                f"allowed: {', '.join(sorted(_TYPE_NAMES[oid] for oid in _TYPES[field]))}"
            )
    return read


def standard_row(values: list[Any], commit_us: int | None = None) -> Row:
    """Raw values in the order of `FIELDS`, in place, with `created_at` read as a number.

    A row without one counts as made at `commit_us`. Raises StuckMessage (`null`) for a row that nothing can be made of:
    our own table refuses it at the INSERT, another may not.
    """
    if len(values) != len(FIELDS):
        raise MalformedMessage(f"Insert has {len(values)} columns, not {len(FIELDS)}")
    created_at = values[-1]
    if values[0] is None or values[1] is None or values[2] is None or values[3] is None:
        raise _null(values[0])
    if created_at is None and commit_us is None:
        raise _null(values[0])
    values[-1] = commit_us if created_at is None else int.from_bytes(created_at, "big", signed=True)
    return values


def _null(event_id: bytes | None) -> StuckMessage:
    known = str(UUID(bytes=event_id)) if event_id is not None and len(event_id) == _UUID_BYTES else "without an id"
    return StuckMessage(
        "the row has no id, aggregatetype, aggregateid, type or created_at", event_id=known, reason="null"
    )
