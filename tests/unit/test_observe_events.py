"""A Kafka record as `tail` shows it: whatever the bytes are, a line comes out and the terminal stays whole."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.config import Settings, load
from dovetail_relay.errors import ConfigInvalid
from dovetail_relay.observe import events, schemas, stream, trace
from dovetail_relay.observe.printable import json_line, printable
from dovetail_schemas.avro import Codec, frame

CODEC = Codec(
    {
        "type": "record",
        "name": "Paid",
        "fields": [
            {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "on", "type": {"type": "int", "logicalType": "date"}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "blob", "type": "bytes"},
            {"name": "ratio", "type": "double"},
            {"name": "ref", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "note", "type": "string"},
        ],
    }
)
REF = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
PAID = {
    "amount": Decimal("12.50"),
    "on": date(2026, 1, 31),
    "at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "blob": b"\x00\xff",
    "ratio": float("inf"),
    "ref": REF,
    "note": "bell \x07 and \x1b[2J and \u202e",
}
ESCAPES = {*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u202e", "\u2028"}


def known(_schema_id: int) -> Codec:
    return CODEC


def read(value: bytes | None, **changes: object) -> events.Event:
    raw = {"topic": "t", "partition": 2, "offset": 9, "key": b"k", "value": value, **changes}
    return events.read(events.Raw(**raw), known)  # type: ignore[arg-type]


def test_decimals_dates_and_bytes_are_rendered() -> None:
    event = read(frame(7, CODEC.encode(PAID)))
    assert event.problem is None
    assert event.schema_id == 7
    assert event.payload == {
        "amount": "12.50",
        "on": "2026-01-31",
        "at": "2026-01-31T12:00:00Z",
        "blob": "0x00ff",
        "ratio": "inf",
        "ref": str(REF),
        "note": PAID["note"],
    }
    # Valid JSON, infinity included, and it gives back exactly what was in it.
    assert json.loads(json_line(event.as_json()))["payload"]["note"] == PAID["note"]


def test_neither_the_line_nor_the_json_carries_what_a_terminal_acts_upon() -> None:
    hostile = "".join(sorted(ESCAPES))
    event = read(
        frame(7, CODEC.encode(PAID | {"note": hostile})),
        key=hostile.encode(),
        headers=[("type", hostile.encode()), ("id", b"\x1b]0;x\x07"), (hostile, b"\x1b")],
    )
    for shown in (event.line(), json_line(event.as_json())):
        assert not ESCAPES & set(shown)


def test_the_events_own_headers_become_fields_and_the_first_of_a_name_counts() -> None:
    event = read(
        None,
        headers=[
            ("id", b"a"), ("type", b"T"), ("time", b"2026-01-01T00:00:00.000000Z"), ("position", b"1/0/0"),
            ("traceparent", b"00-x"), ("id", b"b"), ("nothing", None),
        ],
    )  # fmt: skip
    assert (event.id, event.type, event.time, event.position) == ("a", "T", "2026-01-01T00:00:00.000000Z", "1/0/0")
    assert event.headers == {"traceparent": "00-x", "nothing": None}


def test_without_a_time_header_the_records_own_timestamp_is_shown() -> None:
    assert read(None, stamp_seconds=1_767_225_600.5).time == "2026-01-01T00:00:00.500Z"
    assert read(None, stamp_seconds=1e300).time is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "0 bytes"),
        (b"{}", "a frame has at least"),
        (b"plain text", "0x70"),
        (frame(7, b""), "it ends early"),
        (frame(7, CODEC.encode(PAID) + b"x"), "left over"),
    ],
)
def test_what_cannot_be_decoded_says_why(value: bytes | None, reason: str) -> None:
    event = read(value)
    assert event.payload is None
    assert reason in (event.problem or "")
    assert "undecodable: " in event.line()
    assert event.as_json()["problem"] == event.problem


@given(
    value=st.binary(max_size=200) | st.binary(max_size=100).map(lambda body: frame(1, body)),
    key=st.none() | st.binary(max_size=20),
    headers=st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=10)), max_size=4),
)
def test_no_bytes_make_it_fail(value: bytes, key: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    event = read(value, key=key, headers=headers)
    assert "\n" not in event.line()
    json.loads(json_line(event.as_json()))


@pytest.mark.parametrize(
    ("value", "payload"),
    [(b'{"a": 1.5}', {"a": 1.5}), (b"NaN", "nan"), (b"\xff", "0xff"), (b"words", "words"), (b"[" * 9999, "[" * 9999)],
)
def test_a_topic_that_carries_values_as_written_shows_them_as_they_are(value: bytes, payload: object) -> None:
    event = events.read(events.Raw("t", 0, 0, None, value), None)
    assert (event.payload, event.problem) == (payload, None)


def test_a_long_payload_is_cut_on_a_line_and_whole_in_json() -> None:
    event = events.read(events.Raw("t", 0, 0, None, b"x" * 5000), None)
    assert event.line().endswith("more)")
    assert len(event.as_json()["payload"]) == 5000


@given(st.text())
def test_printable_text_is_one_line_without_controls(text: str) -> None:
    assert not ESCAPES & set(printable(text))
    printable(text).encode()


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_gives_back_what_was_put_in(value: object) -> None:
    assert json.loads(json_line(value)) == value


def test_a_schema_is_fetched_once_and_a_missing_one_again_after_a_while() -> None:
    asked: list[int] = []
    now = [100.0]

    def fetch(schema_id: int) -> str | None:
        asked.append(schema_id)
        return CODEC.normalised if schema_id == 7 else None

    known_ones = schemas.Schemas(fetch, clock=lambda: now[0])
    assert known_ones.codec(7).name == known_ones.codec(7).name == "Paid"
    for _ in range(3):
        with pytest.raises(schemas.SchemaUnavailable, match="no schema has the id 8"):
            known_ones.codec(8)
    assert asked == [7, 8]
    now[0] += 10
    with pytest.raises(schemas.SchemaUnavailable):
        known_ones.codec(8)
    assert asked == [7, 8, 8]


def test_a_schema_that_is_none_says_so() -> None:
    with pytest.raises(schemas.SchemaUnavailable, match="schema 1 is not usable"):
        schemas.Schemas(lambda _: "{}").codec(1)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("12.50", 12.5),
        ("0.1", 0.1),
        ("1e3", 1000.0),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
        ("1e400", "1e400"),
        ("1e-99999999999999999999", "1e-99999999999999999999"),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_a_number_that_no_float_holds_is_shown_as_it_was_written(written: str, shown: object) -> None:
    raw = events.Raw("t", 0, 0, None, f'{{"amount": {written}}}'.encode())
    assert events.read(raw, None).payload == {"amount": shown}


@pytest.mark.parametrize("url", ["registry:8081", "file:///etc/passwd", "http://", "http://h:port", "ftp://h"])
def test_an_address_that_is_no_registry_is_refused(url: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"registry\.url"):
        schemas.from_registry(url)


def settings(**given_keys: str) -> Settings:
    return load(None, {}, {key.replace("__", "."): value for key, value in given_keys.items()}, needs=())


def test_without_arguments_the_routes_topics_are_followed() -> None:
    counts = {"outbox.event.order": 3, "outbox.event.other": 1, "dovetail.checkpoint.dovetail": 1, "foreign": 1}
    routed = settings(routes__order__partitions="3")
    assert stream.chosen([], routed, counts) == {"outbox.event.order": 3}
    assert stream.chosen(["foreign"], routed, counts) == {"foreign": 1}
    # Without routes, whatever events may go to; never the relay's own topics.
    assert stream.chosen([], settings(), counts) == {"outbox.event.order": 3, "outbox.event.other": 1}
    with pytest.raises(stream.NoTopic) as caught:
        stream.chosen(["nope"], routed, counts)
    assert caught.value.missing == ("nope",)


def test_a_time_ordered_id_tells_when_it_was_made() -> None:
    assert trace.written_seconds(REF) == 0x01890A5DAC96 / 1000
    assert trace.written_seconds(UUID("00000000-0000-4000-8000-000000000000")) is None


def test_an_event_leads_to_the_topic_that_the_relay_would_take() -> None:
    routed = settings(routes__order__topic="outbox.event.orders")
    assert trace.topic_of(routed, "order", "x") == "outbox.event.orders"
    assert trace.topic_of(routed, "else", "x") == "outbox.event.else"
