"""What is written is exactly what was given, or nothing is written."""

import enum
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from uuid import UUID

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_schemas.avro import Codec, SchemaMismatch
from support.avro_samples import SAMPLES, SCHEMAS

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}


def codec_of(node, name="OrderPlaced"):
    return Codec({"type": "record", "name": f"shop.{name}", "fields": [{"name": "f", "type": node}]})


def refused(node, value):
    with pytest.raises(SchemaMismatch) as caught:
        codec_of(node).encode({"f": value})
    message = str(caught.value)
    assert "\n" not in message
    return message


@settings(max_examples=150)
@given(SAMPLES)
def test_a_value_that_fits_comes_back_as_it_was(sample):
    schema, datum = sample
    codec = Codec(schema)
    assert codec.decode(codec.encode(datum)) == datum


@settings(max_examples=150)
@given(SAMPLES)
def test_fastavro_reads_the_same_value_from_our_bytes(sample):
    schema, datum = sample
    body = BytesIO(Codec(schema).encode(datum))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fastavro.schemaless_reader(body, fastavro.parse_schema(schema)) == datum
    assert body.read() == b""


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
    | st.decimals(allow_nan=False) | st.uuids() | st.dates() | st.datetimes() | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=200)
@given(SCHEMAS, st.data())
def test_whatever_is_accepted_fastavro_validates_strictly_and_comes_back_equal(schema, data):
    names = [field["name"] for field in schema["fields"]]
    datum = data.draw(st.fixed_dictionaries(dict.fromkeys(names, _ANY)) | _ANY)
    codec = Codec(schema)
    try:
        body = codec.encode(datum)
    except SchemaMismatch as error:
        assert "\n" not in str(error)
        return
    assert fastavro.validate(datum, fastavro.parse_schema(schema), raise_errors=False, strict=True)
    assert codec.decode(body) == datum


def test_an_empty_text_is_no_uuid():
    """It was written as one, and no reader could read it."""
    assert "is not a UUID" in refused({"type": "string", "logicalType": "uuid"}, "")


def test_the_message_names_the_path_and_the_value():
    line = {"type": "record", "name": "Line", "fields": [{"name": "amount", "type": "int"}]}
    codec = Codec(
        {
            "type": "record",
            "name": "OrderPlaced",
            "fields": [{"name": "lines", "type": {"type": "array", "items": line}}],
        }
    )
    lines = [{"amount": 1}] * 3 + [{"amount": 1.5}]
    with pytest.raises(SchemaMismatch, match=r"^OrderPlaced\.lines\[3\]\.amount: 1\.5 is not an int$"):
        codec.encode({"lines": lines})


@pytest.mark.parametrize(("value", "kind"), [(1.5, "int"), (2**31, "int"), (-(2**31) - 1, "int"), (2**63, "long")])
def test_a_number_that_would_be_cut_is_refused(value, kind):
    assert f"{value}" in refused(kind, value)


@pytest.mark.parametrize("kind", ["int", "long", "float", "double", "string"])
def test_a_bool_is_not_a_number_and_not_text(kind):
    assert "True is not" in refused(kind, True)


def test_an_int_goes_into_a_double_only_where_nothing_is_lost():
    codec = codec_of("double")
    assert codec.decode(codec.encode({"f": 2**53})) == {"f": float(2**53)}
    assert "without loss" in refused("double", 2**53 + 1)
    assert "out of range for float" in refused("float", 1e300)


def test_extra_and_missing_fields_are_refused_by_name():
    codec = codec_of("int")
    with pytest.raises(SchemaMismatch, match=r"^OrderPlaced: the record has no field 'g'$"):
        codec.encode({"f": 1, "g": 2})
    with pytest.raises(SchemaMismatch, match=r"^OrderPlaced\.f: is missing and has no default$"):
        codec.encode({})
    with pytest.raises(SchemaMismatch, match=r"the record has no field 'g'"):
        codec.encode({"g": 1})


def test_a_missing_field_takes_the_schemas_default():
    fields = [
        {"name": "a", "type": ["null", "string"], "default": None},
        {"name": "b", "type": "bytes", "default": "\u00ff"},
        {"name": "c", "type": {"type": "array", "items": "int"}, "default": [1, 2]},
        {"name": "d", "type": {"type": "record", "name": "D", "fields": [{"name": "x", "type": "int", "default": 7}]},
         "default": {}},
    ]  # fmt: skip
    codec = Codec({"type": "record", "name": "R", "fields": fields})
    assert codec.decode(codec.encode({})) == {"a": None, "b": b"\xff", "c": [1, 2], "d": {"x": 7}}


def test_a_naive_datetime_is_refused_and_an_aware_one_keeps_its_instant():
    assert "has no time zone" in refused(MICROS, datetime(2026, 1, 1))  # noqa: DTZ001
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    codec = codec_of(MICROS)
    assert codec.decode(codec.encode({"f": moment})) == {"f": moment}
    for edge in (
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=5))),
    ):
        assert "outside the years 1 to 9999" in refused(MICROS, edge)
    assert "would cut off" in refused(MILLIS, datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "value", [Decimal("1000.00"), Decimal("1.001"), Decimal("NaN"), Decimal("Infinity"), Decimal("1e999999"), 1, 1.5]
)
def test_a_decimal_beyond_precision_or_scale_is_refused(value):
    refused(DECIMAL, value)


@pytest.mark.parametrize("text", ["999.99", "-999.99", "0", "-1.28", "1.500", "1e2", "-0.01"])
def test_a_decimal_that_fits_is_kept_to_the_last_digit(text):
    codec = codec_of(DECIMAL)
    assert codec.decode(codec.encode({"f": Decimal(text)})) == {"f": Decimal(text)}


def test_a_decimal_does_not_depend_on_the_callers_decimal_context():
    node = {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 20}
    value = Decimal("1234567890123456789012345678901234567890.12345678901234567890")
    codec = codec_of(node)
    assert codec.decode(codec.encode({"f": value})) == {"f": value}


def test_a_decimal_may_rest_on_a_named_fixed_used_twice():
    money = {"type": "fixed", "name": "Money", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2}
    codec = Codec(
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": money}, {"name": "b", "type": "Money"}]}
    )
    datum = {"a": Decimal("-1.28"), "b": Decimal("9999999.99")}
    assert codec.decode(codec.encode(datum)) == datum


def test_a_lone_surrogate_is_refused_with_its_path():
    assert refused("string", "\ud800").startswith("OrderPlaced.f: a str of 1 characters has a lone surrogate")
    assert "lone surrogate" in refused({"type": "map", "values": "int"}, {"\ud800": 1})


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("string", b"x"), ("bytes", "x"), ("string", {1}), ("string", object()),
        ({"type": "array", "items": "int"}, {1}),
        ({"type": "array", "items": "string"}, "ab"), ({"type": "map", "values": "int"}, {1: 1}), ("null", 0),
        ({"type": "fixed", "name": "F", "size": 2}, b"abc"),
        ({"type": "int", "logicalType": "date"}, datetime.now(UTC)),
        ({"type": "long", "logicalType": "time-micros"}, time(1, tzinfo=UTC)), (MICROS, 5), (MICROS, date(2026, 1, 1)),
        ({"type": "string", "logicalType": "uuid"}, "no"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(node, value):
    refused(node, value)


def test_a_mismatch_is_a_value_error_and_a_type_error():
    with pytest.raises(ValueError, match="not a str"):
        codec_of("string").encode({"f": b""})
    with pytest.raises(TypeError, match="not a str"):
        codec_of("string").encode({"f": object()})


def test_text_never_appears_in_a_message_and_numbers_are_cut():
    secret = "4111-1111-1111-1111"
    for node in ("int", {"type": "enum", "name": "E", "symbols": ["A"]}, ["null", "int"], ["int", "boolean"]):
        assert secret not in refused(node, secret)
    assert secret not in refused("int", [secret])
    assert len(refused("int", 10**5000)) < 200


def test_a_union_takes_the_branch_that_keeps_the_value_best():
    codec = codec_of(["double", "long", "string", {"type": "string", "logicalType": "uuid"}][:3])
    for value in (5, 5.5, "5"):
        back = codec.decode(codec.encode({"f": value}))["f"]
        assert back == value
        assert type(back) is type(value)
    assert "fits none of double, long, string" in refused(["double", "long", "string"], b"")


def test_an_instance_picks_the_record_of_its_own_name_in_a_union():
    @dataclass
    class B:
        x: int

    def branch(name):
        return {"type": "record", "name": name, "fields": [{"name": "x", "type": "long"}]}

    codec = Codec([branch("A"), branch("B")])
    assert codec.encode(B(1))[0] == 2
    assert codec.encode({"x": 1})[0] == 0


def test_enum_members_are_written_by_value_where_all_values_are_symbols_and_else_by_name():
    class Crossed(enum.Enum):
        A = "B"
        B = "not a symbol"

    class Plain(enum.StrEnum):
        FIRST = "A"
        SECOND = "B"

    codec = codec_of({"type": "enum", "name": "E", "symbols": ["A", "B"]})
    assert codec.decode(codec.encode({"f": Crossed.A})) == {"f": "A"}
    assert codec.decode(codec.encode({"f": Plain.SECOND})) == {"f": "B"}


def test_subclasses_and_mappings_are_taken_for_what_they_are():
    class Id(int):
        pass

    codec = codec_of("long")
    assert codec.decode(codec.encode(OrderedDict(f=Id(5)))) == {"f": 5}
    assert codec_of("bytes").encode({"f": memoryview(b"ab")}) == codec_of("bytes").encode({"f": b"ab"})
    uuid_codec = codec_of({"type": "string", "logicalType": "uuid"})
    text = "0190163d-8694-739b-aea5-966c26f8ad91"
    assert uuid_codec.encode({"f": text}) == uuid_codec.encode({"f": UUID(text)})


def test_a_value_nested_five_thousand_deep_is_refused_and_does_not_crash():
    codec = Codec(
        {"type": "record", "name": "R", "fields": [{"name": "f", "type": ["null", "R"]}]}, allow_recursive=True
    )
    datum = None
    for _ in range(5000):
        datum = {"f": datum}
    with pytest.raises(SchemaMismatch, match="nested in itself deeper than 32"):
        codec.encode(datum)
