"""The envelope of a logical message: what is packed comes back, and any bytes are an event or a named error."""

import struct
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dovetail_relay.decode import message, pgoutput
from dovetail_relay.decode.pgoutput import BODY, FIELDS, MalformedMessage, Moment
from dovetail_relay.errors import StuckMessage
from dovetail_schemas import envelope
from dovetail_schemas.envelope import Envelope
from dovetail_schemas.errors import EnvelopeInvalid

EVENT = Envelope(
    uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057").bytes,
    b"order", b"42", b"OrderPlaced", bytes(range(16)), b"avro", b'{"tenant": "a"}', b"\x00body",
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
EVENTS = st.builds(
    Envelope,
    st.binary(min_size=16, max_size=16).filter(any),
    TEXTS.map(str.encode), TEXTS.map(str.encode), TEXTS.map(str.encode),
    st.sampled_from([b"", bytes(range(16))]), st.sampled_from([b"avro", b"json"]),
    st.binary(max_size=50), st.binary(max_size=200),
)  # fmt: skip


def frame(content: bytes, *, flags: int = 1, prefix: bytes = b"dovetail", length: int | None = None) -> bytes:
    """A Message as pgoutput sends it, behind the replication header."""
    size = len(content) if length is None else length
    return (
        b"w"
        + bytes(BODY - 1)
        + b"M"
        + struct.pack("!BQ", flags, 77)
        + prefix
        + b"\0"
        + struct.pack("!I", size)
        + content
    )


def refused(content: bytes) -> str:
    with pytest.raises(EnvelopeInvalid) as caught:
        envelope.unpack(content)
    return str(caught.value)


@given(EVENTS)
def test_what_is_packed_comes_back(event: Envelope) -> None:
    assert envelope.unpack(envelope.pack(event)) == event


@given(st.binary(max_size=300))
@example(envelope.pack(EVENT))
@example(b"\x01" + b"x" * 16 + b"\xff" * 8)
def test_any_bytes_are_an_event_or_an_invalid_envelope(content: bytes) -> None:
    try:
        found = envelope.unpack(content)
    except EnvelopeInvalid:
        return
    assert envelope.pack(found) == content


@given(EVENTS, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_an_envelope_with_broken_bytes_is_an_event_or_a_stuck_message(
    event: Envelope, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(envelope.pack(event))
    for place, byte in flips:
        content[place % len(content)] = byte
    try:
        row = message.message_reader(Moment())(frame(bytes(content)))
    except StuckMessage as stuck:
        assert stuck.reason == "envelope"
    else:
        assert len(row) == len(FIELDS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": bytes(16)}, "nil UUID"),
        ({"id": b"short"}, "bytes"),
        ({"aggregatetype": b""}, "aggregatetype says it has 0 bytes; allowed are 1 to 200"),
        ({"aggregateid": b"k" * 1025}, "allowed are 1 to 1024"),
        ({"type": b"t" * 256}, "allowed are 1 to 255"),
        ({"type": b"\xff"}, "type is not UTF-8"),
        ({"aggregateid": b"a\0b"}, "zero byte"),
        ({"schema_fingerprint": b"1234"}, "neither 0 nor 16"),
        ({"encoding": b"xml"}, "neither avro nor json"),
        ({"headers": b"h" * 65_537}, "allowed are 0 to 65536"),
        ({"payload": bytes(envelope.MAX_BYTES)}, "at most 16777216 are allowed"),
    ],
)
def test_an_event_that_the_table_would_refuse_is_refused_by_field_and_never_by_value(
    change: dict[str, bytes], said: str
) -> None:
    with pytest.raises(EnvelopeInvalid, match=said):
        envelope.pack(EVENT._replace(**change))


def test_an_envelope_of_another_version_cut_short_or_followed_by_more_is_refused() -> None:
    content = envelope.pack(EVENT)
    assert "version 1" in refused(b"\x02" + content[1:])
    assert "version 1" in refused(b"")
    assert "after its payload" in refused(content + b"x")
    for size in range(len(content)):
        refused(content[:size])


def test_a_message_becomes_a_row_dated_by_its_commit() -> None:
    moment = Moment()
    moment.commit_us = 5
    read = message.message_reader(moment)
    assert list(read(frame(envelope.pack(EVENT)))) == [
        EVENT.id, b"order", b"42", b"OrderPlaced", b"\x00body", bytes(range(16)), b"avro", b'\x01{"tenant": "a"}', 5,
    ]  # fmt: skip
    bare = read(frame(envelope.pack(EVENT._replace(schema_fingerprint=b"", headers=b""))))
    assert (bare[5], bare[7]) == (None, b"\x01{}")


def test_a_malformed_envelope_is_stuck_under_its_id() -> None:
    content = envelope.pack(EVENT)
    with pytest.raises(StuckMessage) as caught:
        message.message_reader(Moment())(frame(content[:-1]))
    assert (caught.value.reason, caught.value.event_id) == ("envelope", "01890a5d-ac96-774b-bcce-b302099a8057")


@pytest.mark.parametrize(
    ("flags", "prefix", "is_event"),
    [
        (1, b"dovetail", True),
        (0, b"dovetail", False),
        (1, b"dovetail.hb", False),
        (1, b"Dovetail", False),
        (1, b"", False),
    ],
)
def test_only_a_transactional_message_with_exactly_our_prefix_is_an_event(
    flags: int, prefix: bytes, *, is_event: bool
) -> None:
    assert message.message(frame(b"x", flags=flags, prefix=prefix)[BODY:]).is_event is is_event


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_of_pgoutput_or_malformed(junk: bytes) -> None:
    for data in (junk, b"M" + junk):
        try:
            message.message(data)
        except MalformedMessage:
            continue


def test_the_envelope_bounds_are_those_of_the_outbox_table() -> None:
    assert tuple(name for name, _, _ in envelope._FIELDS) == (
        "aggregatetype", "aggregateid", "type", "schema_fingerprint", "encoding", "headers", "payload",
    )  # fmt: skip
    assert set(Envelope._fields) | {"created_at"} == set(pgoutput.FIELDS)
