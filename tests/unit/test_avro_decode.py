"""Bytes from outside become a datum or a DecodeError, within limits, and nothing else ever happens."""

import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_schemas.avro import BadFraming, Codec, DecodeError, Limits, frame, unframe
from support.avro_samples import SAMPLES, SCHEMAS

NODE = {"type": "record", "name": "R", "fields": [{"name": "f", "type": ["null", "R"]}]}


def codec_of(node):
    return Codec({"type": "record", "name": "R", "fields": [{"name": "f", "type": node}]})


def varint(number):
    zigzag = number << 1 ^ number >> 63
    out = bytearray()
    while zigzag & ~0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


@settings(max_examples=300)
@given(SCHEMAS, st.binary(max_size=200))
def test_any_bytes_are_a_datum_or_a_decode_error(schema, data):
    try:
        datum = Codec(schema).decode(data)
    except DecodeError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(datum, dict)


@settings(max_examples=200)
@given(SAMPLES, st.data())
def test_damaged_bytes_are_a_datum_or_a_decode_error(sample, data):
    schema, datum = sample
    codec = Codec(schema)
    body = bytearray(codec.encode(datum))
    for _ in range(data.draw(st.integers(1, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body))) :]
    try:
        codec.decode(bytes(body))
    except DecodeError:
        pass


@given(SAMPLES, st.binary(min_size=1, max_size=3))
def test_bytes_left_over_are_refused(sample, rest):
    schema, datum = sample
    codec = Codec(schema)
    with pytest.raises(DecodeError, match="left over"):
        codec.decode(codec.encode(datum) + rest)


BROKEN = {
    "union index out of range": (["null", "int"], varint(2)),
    "negative union index": (["null", "int"], varint(-1)),
    "enum index out of range": ({"type": "enum", "name": "E", "symbols": ["A"]}, varint(1)),
    "negative length": ("string", varint(-5)),
    "length past the end": ("bytes", varint(2**40)),
    "bad UTF-8": ("string", varint(2) + b"\xff\xfe"),
    "20-byte varint": ("long", b"\xff" * 19 + b"\x01"),
    "65-bit varint": ("long", b"\xff" * 9 + b"\x7f"),
    "an int of 33 bits": ("int", varint(2**32)),
    "a boolean of 2": ("boolean", b"\x02"),
    "date overflow": ({"type": "int", "logicalType": "date"}, varint(2**31 - 1)),
    "timestamp overflow": ({"type": "long", "logicalType": "timestamp-micros"}, varint(2**62)),
    "time of day overflow": ({"type": "int", "logicalType": "time-millis"}, varint(86_400_000)),
    "decimal beyond its precision": (
        {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
        varint(1000) + b"\x7f" * 1000,
    ),
    "not a UUID": ({"type": "string", "logicalType": "uuid"}, varint(2) + b"no"),
    "a block of another size": ({"type": "array", "items": "int"}, varint(-1) + varint(5) + varint(1) + varint(0)),
    "ends early": ("double", b"\0\0"),
    "nothing at all": ("int", b""),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bytes_are_one_kind_of_error(case):
    node, body = BROKEN[case]
    with pytest.raises(DecodeError) as caught:
        codec_of(node).decode(body)
    assert str(caught.value).startswith("R: ")


def test_a_block_with_its_size_in_front_is_read():
    body = varint(-2) + varint(2) + varint(1) + varint(2) + varint(0)
    assert codec_of({"type": "array", "items": "int"}).decode(body) == {"f": [1, 2]}


@pytest.mark.parametrize("items", ["null", {"type": "record", "name": "Empty", "fields": []}])
@pytest.mark.parametrize(
    "kind", [{"type": "array", "part": "items"}, {"type": "array", "part": "items", "twice": True}]
)
def test_five_bytes_do_not_become_fifty_million_elements(items, kind):
    bomb = varint(50_000_000) + varint(0)
    if "twice" in kind:
        bomb = varint(90_000) + varint(90_000) + varint(0)
    began = time.perf_counter()
    with pytest.raises(DecodeError, match="more array and map elements than allowed"):
        codec_of({"type": "array", "items": items}).decode(bomb)
    assert time.perf_counter() - began < 5


def test_limits_are_the_callers_to_set():
    codec = codec_of({"type": "array", "items": "int"})
    body = codec.encode({"f": [1, 2, 3]})
    assert codec.decode(body, Limits(max_elements=3)) == {"f": [1, 2, 3]}
    with pytest.raises(DecodeError, match="elements"):
        codec.decode(body, Limits(max_elements=2))
    with pytest.raises(DecodeError, match="5 bytes are more than the 4 allowed"):
        codec.decode(body, Limits(max_bytes=4))


def test_five_thousand_levels_are_refused_and_the_process_lives():
    codec = Codec(NODE, allow_recursive=True)
    with pytest.raises(DecodeError, match="deeper than 32 levels"):
        codec.decode(varint(1) * 5000 + varint(0))
    with pytest.raises(DecodeError, match="nested too deep"):
        codec.decode(varint(1) * 5000 + varint(0), Limits(max_depth=100_000))


def test_a_reader_with_a_newer_schema_sees_defaults_and_wider_types():
    old = codec_of("int")
    new = Codec(
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "f", "type": "long"}, {"name": "note", "type": "string", "default": "none"}],
        }
    )
    assert old.decode(old.encode({"f": 5}), reader=new) == {"f": 5, "note": "none"}


def test_a_reader_whose_schema_does_not_fit_is_told_so():
    old, new = codec_of("string"), codec_of("int")
    with pytest.raises(DecodeError, match="does not fit the reader's schema"):
        old.decode(old.encode({"f": "x"}), reader=new)


def test_decimals_keep_their_scale():
    codec = codec_of({"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 3})
    value = Decimal("1234567890123456789012345678901234567.890")
    assert str(codec.decode(codec.encode({"f": value}))["f"]) == str(value)


@given(st.integers(0, 2**31 - 1), st.binary(max_size=50))
def test_a_frame_comes_apart_as_it_was_put_together(number, body):
    assert unframe(frame(number, body)) == (number, body)
    assert frame(number, body)[:1] == b"\0"


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0", b"\1\0\0\0\1x", b'{"a":1}'])
def test_a_value_without_the_prefix_is_bad_framing(value):
    with pytest.raises(BadFraming):
        unframe(value)


@given(st.binary(max_size=20))
def test_any_bytes_unframe_or_are_bad_framing(value):
    try:
        schema_id, body = unframe(value)
    except BadFraming:
        return
    assert frame(schema_id, body) == value
