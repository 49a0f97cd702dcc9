"""JSON rows to Avro: the forms that to_jsonb writes, and nothing guessed."""

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.encode.from_json import FromJson, Unfit
from dovetail_schemas.avro import Codec


def record(**fields: Any) -> str:
    return json.dumps(
        {"type": "record", "name": "shop.E", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    )


def decoded(schema: str, text: str) -> Any:
    return Codec(schema).decode(FromJson(schema).encode(text.encode()))


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "5", 5),
        ("int", "5.0", 5),
        ("long", "9007199254740993", 9007199254740993),
        ("double", "0.1", 0.1),
        ("double", "1", 1.0),
        ("double", "1" + "0" * 300, 1e300),
        (["null", "long", "double"], "5", 5),
        (["null", "long", "double"], "1" + "0" * 30, 1e30),
        ("float", "1.5", 1.5),
        ("boolean", "true", True),
        ("string", '"ü"', "ü"),
        ("bytes", '"\\\\x0aff"', b"\x0a\xff"),
        ("bytes", '"base64:Cv8="', b"\x0a\xff"),
        ({"type": "fixed", "name": "F", "size": 2}, '"\\\\x0aff"', b"\x0a\xff"),
        ({"type": "enum", "name": "C", "symbols": ["RED"]}, '"RED"', "RED"),
        (DECIMAL, "9.90", Decimal("9.90")),
        (DECIMAL, "9", Decimal(9)),
        (DECIMAL, '"9.90"', Decimal("9.90")),
        (
            {"type": "string", "logicalType": "uuid"},
            '"01890a5d-ac96-774b-bcce-b302099a8057"',
            UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
        ),
        ({"type": "int", "logicalType": "date"}, '"2026-01-31"', date(2026, 1, 31)),
        ({"type": "long", "logicalType": "time-micros"}, '"10:11:12.5"', time(10, 11, 12, 500_000)),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            '"2026-01-31T12:00:00.123456+02:00"',
            datetime(2026, 1, 31, 10, 0, 0, 123456, UTC),
        ),
        ({"type": "array", "items": DECIMAL}, "[1, 2.5]", [Decimal(1), Decimal("2.5")]),
        ({"type": "map", "values": "long"}, '{"a": 1.0}', {"a": 1}),
        (["null", DECIMAL], "null", None),
        (["null", DECIMAL], "1.5", Decimal("1.5")),
        (["null", "double", "string"], "1.5", 1.5),
        (["null", "double", "string"], '"x"', "x"),
    ],
)
def test_a_value_comes_out_as_it_was_meant(kind: Any, text: str, value: Any) -> None:
    schema = record(v=kind)
    assert decoded(schema, f'{{"v": {text}}}') == {"v": value}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "1.5"),
        ("int", "1e300000000"),
        ("int", "1" * 5000),
        ("int", '"5"'),
        ("long", "true"),
        ("float", "1e300"),
        ("string", "5"),
        ("bytes", '"\\\\xzz"'),
        ("bytes", '"not base64"'),
        ("bytes", "5"),
        (DECIMAL, "1.999"),
        (DECIMAL, '"nine"'),
        (DECIMAL, "true"),
        ({"type": "int", "logicalType": "date"}, '"tomorrow"'),
        ({"type": "int", "logicalType": "date"}, "5"),
        ({"type": "long", "logicalType": "timestamp-micros"}, '"2026-01-31T12:00:00"'),
        ({"type": "array", "items": "int"}, "{}"),
        ({"type": "map", "values": "int"}, "[]"),
        ("double", "NaN"),
        ("double", "[" * 100_000),
        ("double", "1e400"),
        ("double", "-" + "9" * 309 + ".5"),
        ("double", "1" + "0" * 400),
        ("float", "1e999999999999999999999"),
        (["null", "double", "string"], "1e400"),
        ({"type": "map", "values": "double"}, '{"a": 1e400}'),
        ("int", "1e999999999999999999999"),
        ("bytes", '"secret12"'),
        (DECIMAL, '"1_0.0"'),
        (DECIMAL, '" 9.90 "'),
        (DECIMAL, '"\u0663"'),
        (DECIMAL, '"NaN"'),
        ({"type": "int", "logicalType": "date"}, '"2026-W05-6"'),
        ({"type": "int", "logicalType": "date"}, '"2026-02-30"'),
        ({"type": "long", "logicalType": "time-micros"}, '"12"'),
        ({"type": "long", "logicalType": "timestamp-micros"}, '"2026-01-31T12:00:00,5Z"'),
    ],
)
def test_a_value_that_does_not_fit_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        FromJson(record(v=kind)).encode(f'{{"v": {text}}}'.encode())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"v": 1, "w": 2}', "\xff"])
def test_a_text_that_is_not_the_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        FromJson(record(v="int")).encode(text.encode("latin-1"))


def test_a_named_type_is_converted_wherever_it_is_used_again() -> None:
    inner = {"type": "record", "name": "In", "fields": [{"name": "d", "type": DECIMAL}]}
    assert decoded(record(a=inner, b="shop.In"), '{"a": {"d": 1}, "b": {"d": 2.5}}') == {
        "a": {"d": Decimal(1)},
        "b": {"d": Decimal("2.5")},
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "w"]), inner, max_size=2),
        max_leaves=6,
    )
)
def test_any_json_is_encoded_or_a_value_error(value: object) -> None:
    kinds = ["int", DECIMAL, "bytes", ["null", "double", "string"], {"type": "long", "logicalType": "timestamp-micros"}]
    for kind in kinds:
        try:
            body = FromJson(record(v=kind)).encode(json.dumps(value).encode())
        except ValueError:
            continue
        assert isinstance(body, bytes)


LINES = {"type": "array", "items": {"type": "record", "name": "Line", "fields": [{"name": "price", "type": DECIMAL}]}}
DAY = {"type": "int", "logicalType": "date"}


@pytest.mark.parametrize(
    ("fields", "text", "said"),
    [
        ({"n": "long"}, '{"n": 8675309.5}', "E.n: the number is not a long"),
        ({"n": "int"}, '{"n": 8675309867}', "E.n: the number is out of range for int: -2**31 to 2**31-1"),
        ({"n": "int"}, '{"n": "8675309"}', "E.n: a str of 7 characters is not an int"),
        ({"n": "int"}, '{"n": null}', "E.n: None is not an int"),
        ({"n": "int"}, "{}", "E.n: is missing and has no default"),
        ({"n": "int"}, '{"n": 1, "8675309": 1}', "E: has a field that is none of n"),
        ({"n": "int"}, "[8675309]", "E: a list of 1 is not a record: a dict, a dataclass or a model"),
        ({"l": LINES}, '{"l": [{"price": 1}, {"price": 8675309.867}]}', "E.l[1].price: the number does not fit"),
        ({"d": DAY}, '{"d": "8675309"}', "E.d: the text is not ISO 8601 in full"),
        (
            {"b": {"type": "map", "values": "bytes"}},
            '{"b": {"8675309": "8675309"}}',
            "E.b{0}: the text is neither \\x",
        ),
        ({"n": "int"}, '{"n": 8675309', "it is not JSON"),
        ({"n": "int"}, '{"n": 8675309, "m": NaN}', "it is not JSON"),
        ({"n": "int"}, '{"n": ' + "[" * 100_000, "it is nested too deep"),
        ({"n": "int"}, '{"n": 1e400}', "E.n: the number is not an int"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place_and_its_rule_and_never_by_its_value(
    fields: dict[str, Any], text: str, said: str
) -> None:
    with pytest.raises(Unfit) as caught:
        FromJson(record(**fields)).encode(text.encode())
    assert said in str(caught.value)
    assert "8675309" not in str(caught.value)
    assert caught.value.__suppress_context__
