"""One spelling per schema, one name per spelling, and the rules a schema must keep."""

import json
import re
import warnings
from hashlib import sha256

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_schemas.avro import Codec, SchemaInvalid, SchemaWarning, fingerprint, normalise, schema_id
from support.avro_samples import SCHEMAS


def record(*fields, **attributes):
    return {"type": "record", "name": "R", "fields": list(fields), **attributes}


def field(type_, name="f", **attributes):
    return {"name": name, "type": type_, **attributes}


@given(SCHEMAS)
def test_normalising_a_normalised_schema_changes_nothing(schema):
    once = normalise(schema)
    assert normalise(once) == once
    assert normalise(json.loads(once)) == once


@given(SCHEMAS, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_whitespace_do_not_change_the_fingerprint(schema, random):
    def shuffled(node):
        if isinstance(node, list):
            return [shuffled(item) for item in node]
        if not isinstance(node, dict):
            return node
        items = list(node.items())
        random.shuffle(items)
        return {key: shuffled(value) for key, value in items}

    assert normalise(json.dumps(shuffled(schema), indent=3)) == normalise(schema)


@given(SCHEMAS)
def test_fastavro_reads_the_normalised_schema_as_the_same_schema(schema):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = fastavro.schema.to_parsing_canonical_form(json.loads(normalise(schema)))
        theirs = fastavro.schema.to_parsing_canonical_form(schema)
    assert ours == theirs


def test_namespaces_become_part_of_the_names():
    inner = {"type": "enum", "name": "Colour", "symbols": ["RED"]}
    schema = record(
        field(inner, "a"), field("Colour", "b"), field("shop.Colour", "c"), namespace="shop", aliases=["Old"]
    )
    assert normalise(schema) == (
        '{"name":"shop.R","type":"record","aliases":["shop.Old"],"fields":['
        '{"name":"a","type":{"name":"shop.Colour","type":"enum","symbols":["RED"]}},'
        '{"name":"b","type":"shop.Colour"},{"name":"c","type":"shop.Colour"}]}'
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (field("int", default=1), field("int", default=2)),
        (field("int"), field("int", default=0)),
        (field("int"), field("int", aliases=["g"])),
        (field("int"), field("int", doc="why")),
        (field("long"), field({"type": "long", "logicalType": "timestamp-micros"})),
        (field("long"), field({"type": "long", "pii": True})),
        (
            field({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
            field({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}),
        ),
    ],
)
def test_two_versions_that_a_reader_may_tell_apart_have_two_fingerprints(one, other):
    assert fingerprint(normalise(record(one))) != fingerprint(normalise(record(other)))


def test_a_primitive_may_be_spelled_three_ways():
    assert {normalise("string"), normalise('"string"'), normalise({"type": "string"})} == {'"string"'}


def test_fingerprint_is_the_first_16_bytes_of_sha_256_and_the_id_31_bits_of_it():
    text = normalise(record(field("int")))
    digest = sha256(text.encode()).digest()
    assert fingerprint(text) == digest[:16]
    assert schema_id(b"\xff" * 16) == 0x7FFFFFFF
    assert schema_id(digest[:16]) == int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


REFUSED = {
    "duplicate field": (record(field("int"), field("string")), "'f' is used twice"),
    "alias of another field": (record(field("int"), field("int", "g", aliases=["f"])), "'f' is used twice"),
    "illegal field name": (record(field("int", "1 bad")), "'1 bad' is not a field name"),
    "illegal type name": ({**record(), "name": "a-b"}, "'a-b' is not a type name"),
    "primitive's name": ({**record(), "name": "string"}, "'string' is not a type name"),
    "default of another type": (record(field("int", default="x")), "R.f: the default must be an int"),
    "default out of range": (record(field("int", default=2**31)), "R.f: the default must be an int"),
    "default of the second branch": (record(field(["null", "int"], default=1)), "the default must be a null"),
    "record default lacks a field": (
        record(field({"type": "record", "name": "S", "fields": [field("int", "x")]}, default={})),
        "the default lacks the field 'x'",
    ),
    "scale above precision": (
        record(field({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3})),
        "the scale 3 is greater than the precision 2",
    ),
    "precision beyond fixed": (
        record(field({"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 5})),
        "does not fit into 2 bytes",
    ),
    "decimal without precision": (record(field({"type": "bytes", "logicalType": "decimal"})), "'precision'"),
    "enum duplicate": ({"type": "enum", "name": "E", "symbols": ["A", "A"]}, "listed twice"),
    "enum symbol": ({"type": "enum", "name": "E", "symbols": ["A-B"]}, "'A-B' is not a symbol"),
    "enum default": ({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}, "not one of the symbols"),
    "negative fixed": ({"type": "fixed", "name": "F", "size": -1}, "'size'"),
    "union in union": (["null", ["int"]], "may not hold a union"),
    "union branch twice": (["int", "int"], "the union has int twice"),
    "empty union": ([], "at least one branch"),
    "unknown name": (record(field("Nowhere")), "'Nowhere' is not a primitive type, nor a type defined"),
    "name defined twice": (
        record(field({**record(), "name": "S"}), field({**record(), "name": "S"}, "g")),
        "S is defined twice",
    ),
    "recursion": (record(field(["null", "R"])), "R contains itself; pass allow_recursive=True"),
    "no namespace inside one": (
        record(field({**record(), "name": "S", "namespace": ""}), namespace="shop"),
        "S has no namespace, but lies inside shop",
    ),
    "key twice": ('{"type":"string","type":"int"}', "one key twice"),
    "not JSON": ("{", "is not JSON"),
    "not a schema": (3, "a schema is a name"),
    "no items": ({"type": "array"}, "'items'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_schema_that_breaks_a_rule_is_refused_with_its_place(case):
    schema, message = REFUSED[case]
    with pytest.raises(SchemaInvalid, match=re.escape(message)) as refused:
        Codec(schema)
    assert "\n" not in str(refused.value)


def test_a_schema_nested_thirty_thousand_deep_is_refused_and_does_not_crash():
    with pytest.raises(SchemaInvalid, match="nested"):
        normalise('{"type":"array","items":' * 30_000 + '"int"' + "}" * 30_000)
    with pytest.raises(SchemaInvalid, match="nested deeper than 64"):
        normalise('{"type":"array","items":' * 70 + '"int"' + "}" * 70)


@pytest.mark.parametrize(
    "node",
    [{"type": "long", "logicalType": "timestamp-eons"}, {"type": "string", "logicalType": "date"}],
)
def test_a_logical_type_without_effect_warns_and_leaves_the_base_type(node):
    with pytest.warns(SchemaWarning):
        codec = Codec(record(field(node)))
    value = 5 if node["type"] == "long" else "x"
    assert codec.decode(codec.encode({"f": value})) == {"f": value}


def test_recursion_is_allowed_where_it_is_asked_for():
    codec = Codec(record(field(["null", "R"])), allow_recursive=True)
    datum = {"f": {"f": {"f": None}}}
    assert codec.decode(codec.encode(datum)) == datum
