"""Random Avro schemas, and values that fit them."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import count

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _decimal(node):
    unscaled = st.integers(-(10 ** node["precision"]) + 1, 10 ** node["precision"] - 1)
    return unscaled.map(lambda number: Decimal(f"{number}E-{node['scale']}"))


_PRIMITIVES = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "bytes": st.binary(max_size=20),
    "string": TEXT,
}
_MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1))  # noqa: DTZ001 - made aware below
_LOGICAL = {
    "decimal": _decimal,
    "uuid": lambda _: st.uuids(),
    "date": lambda _: st.dates(min_value=date(1, 1, 1)),
    "time-micros": lambda _: st.times(),
    "time-millis": lambda _: st.times().map(lambda t: time(t.hour, t.minute, t.second, t.microsecond // 1000 * 1000)),
    "timestamp-micros": lambda _: _MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
    "timestamp-millis": lambda _: _MOMENTS.map(
        lambda m: m.replace(tzinfo=UTC, microsecond=m.microsecond // 1000 * 1000)
    ),
    "local-timestamp-micros": lambda _: _MOMENTS,
}


def _logical_nodes():
    decimals = st.integers(1, 30).flatmap(
        lambda precision: st.builds(
            lambda scale: {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale},
            st.integers(0, precision),
        )
    )
    others = [
        {"type": "string", "logicalType": "uuid"},
        {"type": "int", "logicalType": "date"},
        {"type": "int", "logicalType": "time-millis"},
        {"type": "long", "logicalType": "time-micros"},
        {"type": "long", "logicalType": "timestamp-millis"},
        {"type": "long", "logicalType": "timestamp-micros"},
        {"type": "long", "logicalType": "local-timestamp-micros"},
    ]
    return decimals | st.sampled_from(others)


def _named(node, numbers):
    """Give each named type of a drawn tree a name of its own."""
    if isinstance(node, list):
        return [_named(branch, numbers) for branch in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: _named(value, numbers) if key in {"items", "values", "type"} else value for key, value in node.items()
    }
    if "fields" in node:
        found["fields"] = [
            {"name": f"f{index}", "type": _named(inner, numbers)} for index, inner in enumerate(node["fields"])
        ]
    if "name" in node:
        found["name"] = f"T{next(numbers)}"
    return found


def _compound(inner):
    return (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda values: {"type": "map", "values": values}, inner)
        | st.builds(lambda fields: {"type": "record", "name": "", "fields": fields}, st.lists(inner, max_size=4))
        | st.builds(lambda branch: branch if branch == "null" or isinstance(branch, list) else ["null", branch], inner)
    )


_LEAVES = (
    st.sampled_from(sorted(_PRIMITIVES))
    | _logical_nodes()
    | st.just({"type": "enum", "name": "", "symbols": ["A", "B", "C"]})
    | st.builds(lambda size: {"type": "fixed", "name": "", "size": size}, st.integers(1, 5))
)
_NODES = st.recursive(_LEAVES, _compound, max_leaves=8)

SCHEMAS = st.lists(_NODES, max_size=4).map(
    lambda fields: _named({"type": "record", "name": "", "fields": fields}, count())
)


def values_of(node):
    """A strategy for values that fit a schema drawn from `SCHEMAS`."""
    if isinstance(node, list):
        return st.one_of([values_of(branch) for branch in node])
    if isinstance(node, str):
        return _PRIMITIVES[node]
    if "logicalType" in node:
        return _LOGICAL[node["logicalType"]](node)
    kind = node["type"]
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: values_of(field["type"]) for field in node["fields"]})
    if kind == "array":
        return st.lists(values_of(node["items"]), max_size=3)
    if kind == "map":
        return st.dictionaries(TEXT, values_of(node["values"]), max_size=3)
    if kind == "enum":
        return st.sampled_from(node["symbols"])
    return st.binary(min_size=node["size"], max_size=node["size"])


SAMPLES = SCHEMAS.flatmap(lambda schema: st.tuples(st.just(schema), values_of(schema)))
