"""Event types from classes and schema files."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Optional
from uuid import UUID

import pydantic
import pytest

import dovetail
from dovetail.errors import EventTypeInvalid, NotAnEvent
from dovetail_schemas.avro import SchemaInvalid


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Line:
    sku: str
    count: Annotated[int, dovetail.Int32()] = 1


@dovetail.event("shop.Everything", aggregate="order", key="order_id", namespace="shop")
@dataclass
class Everything:
    order_id: int
    amount: Annotated[Decimal, dovetail.Decimal(12, 2)]
    ratio: float
    paid: bool
    blob: bytes
    at: datetime
    day: date
    clock: time
    customer: UUID
    colour: Colour
    level: Level
    line: Line
    lines: list[Line]
    pair: tuple[int, ...]
    by_name: dict[str, Line]
    note: str | None = None
    first: Optional[Line] = None  # noqa: UP045 - both spellings must work
    total: Annotated[Decimal, dovetail.Decimal(5, 1)] = Decimal("0.5")
    tags: list[str] = field(default_factory=list)
    favourite: Colour | None = Colour.GREEN
    made: UUID = field(default_factory=dovetail.uuid7)


def everything() -> Everything:
    return Everything(
        order_id=42, amount=Decimal("9.90"), ratio=0.5, paid=True, blob=b"x", at=datetime(2026, 1, 2, tzinfo=UTC),
        day=date(2026, 1, 2), clock=time(3, 4), customer=dovetail.uuid7(), colour=Colour.RED, level=Level.HIGH,
        line=Line("a"), lines=[Line("b", 2)], pair=(1, 2), by_name={"c": Line("c")}, first=Line("d"), tags=["t"],
    )  # fmt: skip


def type_of(cls: type) -> dovetail.EventType:
    return dovetail.EventType.of(cls)


def schema_of(cls: type) -> dict[str, Any]:
    return json.loads(type_of(cls).codec.normalised)


def test_a_dataclass_goes_out_and_comes_back_as_it_was():
    kind = type_of(Everything)
    event = everything()
    assert kind.shape is not None
    assert kind.shape.build is not None
    assert kind.shape.build(kind.codec.decode(kind.codec.encode(event))) == event


def test_python_types_have_the_avro_types_that_the_table_says():
    types = {entry["name"]: entry["type"] for entry in schema_of(Everything)["fields"]}
    assert schema_of(Everything)["name"] == "shop.Everything"
    assert types["order_id"] == "long"
    assert types["amount"] == {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
    assert (types["ratio"], types["paid"], types["blob"]) == ("double", "boolean", "bytes")
    assert types["at"] == {"type": "long", "logicalType": "timestamp-micros"}
    assert types["day"] == {"type": "int", "logicalType": "date"}
    assert types["customer"] == {"type": "string", "logicalType": "uuid"}
    assert types["colour"]["symbols"] == ["red", "green"]
    assert types["level"]["symbols"] == ["LOW", "HIGH"]
    assert types["line"]["fields"][1] == {"name": "count", "type": "int", "default": 1}
    assert types["lines"] == {"type": "array", "items": "shop.Line"}
    assert types["by_name"] == {"type": "map", "values": "shop.Line"}
    assert types["note"] == ["null", "string"]


def test_defaults_become_avro_defaults_where_avro_can_hold_them():
    entries = {entry["name"]: entry for entry in schema_of(Everything)["fields"]}
    assert entries["note"]["default"] is None
    assert entries["total"]["default"] == "\x05"
    assert entries["tags"]["default"] == []
    assert (entries["favourite"]["type"], entries["favourite"]["default"]) == (["shop.Colour", "null"], "green")
    assert "default" not in entries["made"]
    assert "default" not in entries["order_id"]


def test_a_class_made_in_a_function_may_use_local_names():
    @dataclass
    class Inner:
        x: int

    @dovetail.event("Local", aggregate="a", key="k")
    @dataclass
    class Local:
        k: str
        inner: Inner

    assert schema_of(Local)["fields"][1]["type"]["name"] == "Inner"


def test_a_pydantic_model_is_an_event_too():
    @dovetail.event("Model", aggregate="a", key="k")
    class Model(pydantic.BaseModel):
        k: int
        note: str | None = None
        amount: Annotated[Decimal, dovetail.Decimal(5, 2)] = Decimal("1.00")
        tags: list[str] = pydantic.Field(default_factory=list)

    kind = type_of(Model)
    event = Model(k=1, note="n")
    assert kind.shape is not None
    assert kind.shape.build is not None
    assert kind.shape.build(kind.codec.decode(kind.codec.encode(event))) == event
    assert kind.key_of(event) == "1"


def test_an_avsc_file_is_an_event_type(tmp_path):
    path = tmp_path / "order.avsc"
    path.write_text(
        '{"type": "record", "name": "OrderPlaced", "namespace": "shop",'
        ' "fields": [{"name": "order_id", "type": "long"}]}'
    )
    kind = dovetail.EventType.from_avsc(path, aggregate="order", key="order_id")
    assert (kind.name, kind.subject, kind.aggregate) == ("shop.OrderPlaced", "shop.OrderPlaced", "order")
    event = kind({"order_id": 42}, headers={"tenant": "x"})
    assert isinstance(event, dovetail.Event)
    assert event.id.version == 7
    assert kind.key_of(event.payload) == "42"
    named = dovetail.EventType.from_avsc(json.loads(path.read_text()), aggregate="o", key="order_id", type="Placed")
    assert named.name == "Placed"
    assert named.fingerprint == kind.fingerprint


def test_the_event_type_of_a_subclass_is_its_own():
    @dataclass
    class Wider(Everything):
        more: int = 0

    with pytest.raises(NotAnEvent, match="Wider is not an event; put @dovetail"):
        dovetail.EventType.of(Wider)


def build(annotation: Any, default: Any = ...) -> None:
    fields: dict[str, Any] = {"__annotations__": {"k": int, "f": annotation}}
    if default is not ...:
        fields["f"] = default
    dovetail.event("Bad", aggregate="a", key="k")(dataclass(type("Bad", (), fields)))


def other_colour() -> type:
    return enum.Enum("Colour", {"BLUE": "blue"})


REFUSED = {
    "bare decimal": (Decimal, r"^Bad\.f: say how many digits: Annotated\[Decimal, dovetail\.Decimal\(12, 2\)\]$"),
    "set": (set[int], r"Bad\.f: set\[int\] has no Avro form"),
    "bare list": (list, r"say what is in it"),
    "fixed tuple": (tuple[int, str], "has no Avro form"),
    "dict by int": (dict[int, str], "has no Avro form"),
    "any": (Any, "has no Avro form"),
    "two texts": (str | Colour, "read the same"),
    "two records": (Line | Everything, "read the same"),
    "decimal mark on int": (Annotated[int, dovetail.Decimal(3)], "Decimal does not go with int"),
    "two classes of one name": (list[Colour] | dict[str, other_colour()], "two classes are called Colour"),
    "nested list": (list[list[set[int]]], r"Bad\.f\[\]\[\]"),
    "undefined name": ("Nowhere", "names 'Nowhere', which is not defined"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_field_without_an_avro_form_is_refused_by_name(case):
    annotation, message = REFUSED[case]
    with pytest.raises(EventTypeInvalid, match=message):
        build(annotation)


def test_a_default_that_does_not_fit_is_refused_by_name():
    with pytest.raises(EventTypeInvalid, match=r"Bad\.f: the default does not fit the field's type"):
        build(Annotated[Decimal, dovetail.Decimal(3, 1)], Decimal("0.05"))


def test_a_class_that_contains_itself_is_refused():
    @dataclass
    class Tree:
        k: int
        children: list[Tree]

    with pytest.raises(EventTypeInvalid, match="Tree contains itself"):
        dovetail.event("Tree", aggregate="a", key="k")(Tree)


def test_a_plain_class_is_refused():
    with pytest.raises(EventTypeInvalid, match="put @dataclass below"):
        dovetail.event("Plain", aggregate="a", key="k")(type("Plain", (), {}))


@pytest.mark.parametrize(
    ("name", "aggregate", "key"),
    [("a/b", "a", "k"), ("a b", "a", "k"), ("x" * 300, "a", "k"), ("", "a", "k"), ("X", "a b", "k"), ("X", "..", "k"),
     ("X", "a" * 201, "k"), ("X", "a", "nope"), ("X", "a", 5)],
)  # fmt: skip
def test_row_77_names_that_kafka_or_a_registry_refuses_are_refused_here(name, aggregate, key):
    with pytest.raises(EventTypeInvalid):
        dovetail.event(name, aggregate=aggregate, key=key)(dataclass(type("C", (), {"__annotations__": {"k": int}})))


def test_row_75_a_recursive_file_is_refused_unless_that_is_meant():
    tree = {
        "type": "record",
        "name": "Tree",
        "fields": [{"name": "k", "type": "int"}, {"name": "next", "type": ["null", "Tree"]}],
    }
    with pytest.raises(SchemaInvalid, match="allow_recursive"):
        dovetail.EventType.from_avsc(tree, aggregate="a", key="k")
    dovetail.EventType.from_avsc(tree, aggregate="a", key="k", allow_recursive=True)


def test_an_event_does_not_print_its_payload():
    event = type_of(Everything)(everything(), headers={"secret": "x"})
    assert "secret" not in repr(event)
    assert "9.90" not in repr(event)
