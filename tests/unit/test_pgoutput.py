"""pgoutput bytes: what a small encoder of the test's own writes is read back, and nothing else gets through."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dovetail_relay.decode import pgoutput
from dovetail_relay.decode.pgoutput import MalformedMessage
from dovetail_relay.errors import OutboxAltered, StuckMessage
from dovetail_relay.nouns import OutboxTable

HEADER = b"w" + struct.pack("!QQq", 16, 32, 123_456)
OID = 16_400
BYTEA, TEXT, UUID, JSONB, TIMESTAMPTZ = 17, 25, 2950, 3802, 1184
COLUMNS = (
    ("id", UUID),
    ("aggregatetype", TEXT),
    ("aggregateid", TEXT),
    ("type", TEXT),
    ("payload", BYTEA),
    ("schema_fingerprint", BYTEA),
    ("encoding", TEXT),
    ("headers", JSONB),
    ("created_at", TIMESTAMPTZ),
)


def insert_frame(values: Sequence[bytes | None], kind: bytes = b"b", oid: int = OID) -> bytes:
    columns = b"".join(b"n" if value is None else kind + struct.pack("!i", len(value)) + value for value in values)
    return HEADER + b"I" + struct.pack("!I", oid) + b"N" + struct.pack("!H", len(values)) + columns


def relation_message(columns: Sequence[tuple[str, int]], namespace: str = "dovetail", name: str = "outbox") -> bytes:
    listed = b"".join(b"\x00" + column.encode() + b"\x00" + struct.pack("!Ii", oid, -1) for column, oid in columns)
    names = namespace.encode() + b"\x00" + name.encode() + b"\x00"
    return b"R" + struct.pack("!I", OID) + names + b"d" + struct.pack("!H", len(columns)) + listed


def row(
    *,
    key: bytes = b"key-1",
    payload: bytes | None = b"\x02a",
    fingerprint: bytes | None = b"f" * 16,
    encoding: bytes = b"avro",
    headers: bytes = b"\x01{}",
    created_at: int = 7,
) -> list[bytes | None]:
    raw_time = struct.pack("!q", created_at)
    return [b"i" * 16, b"order", key, b"OrderPlaced", payload, fingerprint, encoding, headers, raw_time]


ROWS = st.builds(
    row,
    key=st.binary(min_size=1, max_size=300),
    payload=st.none() | st.binary(max_size=400),
    fingerprint=st.none() | st.binary(min_size=16, max_size=16),
    encoding=st.sampled_from([b"avro", b"json"]),
    headers=st.sampled_from([b"\x01{}", b'\x01{"a": "b"}']),
    created_at=st.integers(-(1 << 63), (1 << 63) - 1),
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 32) - 1))
def test_a_begin_is_read_back(lsn: int, commit_us: int, xid: int) -> None:
    assert pgoutput.begin(b"B" + struct.pack("!QqI", lsn, commit_us, xid)) == (lsn, commit_us, xid)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_commit_is_read_back(lsn: int, end: int, commit_us: int) -> None:
    assert pgoutput.commit(b"C\x00" + struct.pack("!QQq", lsn, end, commit_us)) == (lsn, end, commit_us)


@given(NAMES, NAMES, st.lists(st.tuples(NAMES, st.integers(0, (1 << 32) - 1)), max_size=8))
def test_a_relation_is_read_back(namespace: str, name: str, columns: list[tuple[str, int]]) -> None:
    found = pgoutput.relation(relation_message(columns, namespace, name))
    assert (found.namespace, found.name, [tuple(column) for column in found.columns]) == (namespace, name, columns)
    assert found.oid == struct.pack("!I", OID)


@given(st.lists(st.none() | st.binary(max_size=300), max_size=12), st.sampled_from([b"b", b"t"]))
def test_an_insert_is_read_back(values: list[bytes | None], kind: bytes) -> None:
    frame = insert_frame(values, kind)
    assert pgoutput.insert(frame) == values
    assert frame[pgoutput.OID] == struct.pack("!I", OID)


@settings(max_examples=400)
@given(ROWS)
@example(row(key=b"k" * 255))
@example(row(key=b"k" * 256))
@example(row(payload=b""))
@example(row(payload=b"b\x00\x00\x00\x04avrob\x00\x00\x00\x03\x01{}b\x00\x00\x00\x08"))
def test_the_fast_way_and_the_plain_way_read_the_same_row(values: list[bytes | None]) -> None:
    created_at = struct.unpack("!q", values[-1] or b"")[0]
    assert list(pgoutput.usual_insert(insert_frame(values))) == [*values[:-1], created_at]


def plain(frame: bytes) -> list[object] | None:
    try:
        return list(pgoutput.standard_row(pgoutput.insert(frame)))
    except (MalformedMessage, StuckMessage):
        return None


@settings(max_examples=1000)
@given(ROWS, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_the_fast_way_takes_nothing_that_the_plain_way_refuses(
    values: list[bytes | None], flips: list[tuple[int, int]]
) -> None:
    frame = bytearray(insert_frame(values))
    for place, byte in flips:
        # Only what the two read: the replication header before it is the pipeline's.
        frame[pgoutput.BODY + 5 + place % (len(frame) - pgoutput.BODY - 5)] = byte
    try:
        fast = list(pgoutput.usual_insert(bytes(frame)))
    except (MalformedMessage, StuckMessage):
        fast = None
    assert fast == plain(bytes(frame))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (pgoutput.begin, b"B" + bytes(20)),
        (pgoutput.commit, b"C" + bytes(25)),
        (pgoutput.relation, relation_message(COLUMNS)),
        (pgoutput.insert, insert_frame(row())),
        (pgoutput.usual_insert, insert_frame(row())),
        (pgoutput.usual_insert, insert_frame(row(payload=None, headers=b"\x01{}"))),
    ],
)
def test_a_message_cut_anywhere_or_with_a_byte_too_many_is_malformed(read: object, message: bytes) -> None:
    read(message)  # type: ignore[operator]
    first = len(HEADER) if message.startswith(HEADER) else 1
    for size in range(first, len(message)):
        with pytest.raises(MalformedMessage):
            read(message[:size])  # type: ignore[operator]
    with pytest.raises(MalformedMessage):
        read(message + b"\x00")  # type: ignore[operator]


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b"I\x00\x00\x40\x10N\x00\x01b\xff\xff\xff\xff")
@example(b"I\x00\x00\x40\x10N\x00\x01b\x7f\xff\xff\xff")
@example(b"I\x00\x00\x40\x10N\x00\x01u")
@example(b"R\x00\x00\x40\x10\xff\x00\xff\x00d\x00\x00")
def test_any_bytes_are_a_message_or_malformed(junk: bytes) -> None:
    for read in (pgoutput.begin, pgoutput.commit, pgoutput.relation, pgoutput.insert, pgoutput.usual_insert):
        for data in (junk, HEADER + junk):
            try:
                read(data)  # type: ignore[operator]
            except (MalformedMessage, StuckMessage):
                continue


def reader(columns: Sequence[tuple[str, int]], mapped: dict[str, str] | None = None):
    found = pgoutput.relation(relation_message(columns))
    return pgoutput.row_reader(found._replace(namespace="public"), mapped or {})


def test_columns_are_found_by_name_in_any_order_and_under_mapped_names() -> None:
    shuffled = [("extra", TEXT), *reversed(COLUMNS)]
    renamed = [("event_id" if name == "id" else name, oid) for name, oid in shuffled]
    read = reader(renamed, {"id": "event_id"})
    assert list(read(insert_frame([b"x", *reversed(row())]))) == [*row()[:-1], 7]


def test_debeziums_five_columns_are_enough() -> None:
    read = reader(COLUMNS[:5])
    assert list(read(insert_frame(row()[:5]))) == [*row()[:5], None, b"avro", b"\x01{}", 0]


@pytest.mark.parametrize("missing", ["id", "aggregatetype", "aggregateid", "type", "payload"])
def test_a_needed_column_that_is_gone_is_outbox_altered(missing: str) -> None:
    with pytest.raises(OutboxAltered, match=missing):
        reader([column for column in COLUMNS if column[0] != missing])


@pytest.mark.parametrize("changed", [name for name, _ in COLUMNS])
def test_a_column_of_another_type_is_outbox_altered(changed: str) -> None:
    found = relation_message([(name, 23 if name == changed else oid) for name, oid in COLUMNS])
    with pytest.raises(OutboxAltered, match=changed):
        pgoutput.row_reader(pgoutput.relation(found), {})


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[:5], COLUMNS[::-1]])
@pytest.mark.parametrize("difference", [-1, 1])
def test_an_insert_with_another_number_of_columns_than_its_table_is_malformed(
    columns: Sequence[tuple[str, int]], difference: int
) -> None:
    with pytest.raises(MalformedMessage):
        reader(columns)(insert_frame([b"x" * 8] * (len(columns) + difference)))


NOW = OutboxTable(b"\0\0\0\1", "shop", "events", (("id", 1), ("payload", 2), ("extra", 3)))


@pytest.mark.parametrize(
    ("then", "read"),
    [
        ([("id", 1), ("payload", 2), ("extra", 3)], ["id", "payload", "extra"]),
        ([("id", 1), ("body", 2), ("extra", 3)], ["id", "payload", "extra"]),  # it had another name
        ([("id", 1), ("payload", 2), ("other", 3)], ["id", "payload", "other"]),  # none of what is read
        ([("id", 1), ("body", 3), ("extra", 3)], ["id", "body", "extra"]),  # another type
        ([("id", 1), ("extra", 2), ("payload", 3)], ["id", "extra", "payload"]),  # others have moved
        ([("id", 1), ("extra", 2), ("body", 3)], ["id", "extra", "body"]),
        ([("id", 1), ("body", 2)], ["id", "body"]),  # fewer
    ],
)
def test_a_column_that_was_renamed_is_the_same_one_where_no_other_has_moved(
    then: list[tuple[str, int]], read: list[str]
) -> None:
    before = pgoutput.Relation(NOW.oid, "public", "old", tuple(pgoutput.Column(*column) for column in then))
    found = pgoutput.as_now(before, NOW, {})
    assert (found.namespace, found.name) == ("shop", "events")
    assert [column.name for column in found.columns] == read


@pytest.mark.parametrize("gone", [name for name, _ in COLUMNS])
def test_our_own_table_needs_all_of_its_columns(gone: str) -> None:
    """A row whose headers were left out in silence would be another event."""
    found = pgoutput.relation(relation_message([column for column in COLUMNS if column[0] != gone]))
    assert (found.namespace, found.name) == pgoutput.OUTBOX
    with pytest.raises(OutboxAltered, match=gone):
        pgoutput.row_reader(found, {})
