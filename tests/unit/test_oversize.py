"""What is kept of a frame that is too large: enough to name its row, and no more."""

from __future__ import annotations

import tracemalloc
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.decode import message, oversize, pgoutput
from dovetail_relay.errors import StuckMessage
from dovetail_schemas import envelope

HEADER = b"w" + bytes(24)
ID = UUID("0198f7c2-0000-7000-8000-000000000001")
LARGE = b"x" * 100_000


def insert(*values: bytes | None, kind: bytes = b"b") -> bytes:
    columns = b"".join(b"n" if value is None else kind + len(value).to_bytes(4, "big") + value for value in values)
    return HEADER + b"I" + (4711).to_bytes(4, "big") + b"N" + len(values).to_bytes(2, "big") + columns


def logical(prefix: bytes, content: bytes, flags: int = 1) -> bytes:
    return HEADER + b"M" + bytes((flags,)) + bytes(8) + prefix + b"\0" + len(content).to_bytes(4, "big") + content


def kept(frame: bytes) -> tuple[int, bytes]:
    small = oversize.shortened(memoryview(frame))
    assert small[pgoutput.BODY] == oversize.TAG
    assert len(small) < 6000
    return oversize.opened(small)


def test_a_large_row_keeps_everything_but_its_long_values() -> None:
    row = insert(ID.bytes, b"order", b"k", b"Placed", LARGE, None, b"avro", b"\x01{}", bytes(8))
    size, small = kept(row)
    assert size == len(row)
    assert small[pgoutput.OID] == row[pgoutput.OID]
    assert pgoutput.insert(small) == [ID.bytes, b"order", b"k", b"Placed", b"", None, b"avro", b"\x01{}", bytes(8)]


def test_the_row_is_named_wherever_its_id_stands() -> None:
    columns = [("payload", 17), ("aggregateid", 25), ("type", 25), ("aggregatetype", 25), ("id", 2950)]
    relation = pgoutput.Relation(b"", "shop", "events", tuple(pgoutput.Column(*column) for column in columns))
    size, small = kept(insert(LARGE, b"k", b"Placed", b"order", ID.bytes))
    row = pgoutput.row_reader(relation, {})(small)
    assert (row[2], row[3], row[1]) == (b"k", b"Placed", b"order")
    refused = oversize.refusal(row, size, 50_000)
    assert str(refused).startswith(f"the row has {size} bytes, more than outbox.max_row_bytes, 50000; ")
    assert (refused.event_id, refused.reason) == (str(ID), "too_large")


def test_a_large_message_keeps_its_envelope_but_for_the_long_fields() -> None:
    event = envelope.Envelope(ID.bytes, b"order", b"k", b"Placed", bytes(16), b"avro", b'{"a": "b"}', LARGE)
    size, small = kept(logical(b"dovetail", envelope.pack(event)))
    row = message.message_reader(pgoutput.Moment())(small)
    assert list(row[:6]) == [ID.bytes, b"order", b"k", b"Placed", b"", bytes(16)]
    assert oversize.refusal(row, size, 50_000).event_id == str(ID)


@pytest.mark.parametrize("rest", [LARGE, b"\0\0\0\x05order" + LARGE, b"\xff" * 100_000])
def test_a_large_message_of_ours_without_an_envelope_is_stuck_under_the_id_that_it_has(rest: bytes) -> None:
    _, small = kept(logical(b"dovetail", bytes((envelope.VERSION,)) + ID.bytes + rest))
    with pytest.raises(StuckMessage) as stuck:
        message.message_reader(pgoutput.Moment())(small)
    assert (stuck.value.event_id, stuck.value.reason) == (str(ID), "envelope")


@pytest.mark.parametrize(("prefix", "flags"), [(b"other", 1), (b"dovetail", 0), (LARGE, 1), (b"\xff", 1)])
def test_a_large_message_of_somebody_elses_is_none_of_ours(prefix: bytes, flags: int) -> None:
    _, small = kept(logical(prefix, LARGE, flags))
    assert not message.message(small[pgoutput.BODY :]).is_event


def test_what_can_be_neither_row_nor_message_comes_back_whole() -> None:
    relation = HEADER + b"R" + LARGE
    assert oversize.shortened(memoryview(relation)) == relation


@given(st.binary(max_size=60), st.integers(0, 2**32 - 1))
def test_any_bytes_are_shortened_or_malformed(tail: bytes, length: int) -> None:
    for tag in (b"I", b"M"):
        frame = HEADER + tag + bytes(7) + b"\x01b" + length.to_bytes(4, "big") + tail
        try:
            size, _ = oversize.opened(oversize.shortened(memoryview(frame)))
        except pgoutput.MalformedMessage:
            continue
        assert size == len(frame)


def test_nothing_of_a_large_frames_size_is_allocated() -> None:
    frame = memoryview(insert(ID.bytes, b"order", b"k", b"Placed", b"x" * 50_000_000))
    tracemalloc.start()
    try:
        oversize.shortened(frame)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
