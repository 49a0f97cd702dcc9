"""A walk over untrusted bytes that comes before fastavro sees them.

fastavro's compiled reader trusts its input: five bytes make fifty million nulls, a deep value ends the process, an
index or a decimal out of range passes. The walk is compiled once per schema into closures `(data, position, budget,
depth) -> position` that check every length, index, range and the limits, and build nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from dovetail_schemas.avro.logical import RANGES, decimal_shape, logical_type
from dovetail_schemas.avro.schema import Schema
from dovetail_schemas.errors import DecodeError


class Limits(NamedTuple):
    """What one datum may cost. `max_elements` counts the items of all arrays and maps together; `max_depth` is how
    often a recursive type may be inside itself.
    """

    max_bytes: int = 10_485_760
    max_elements: int = 100_000
    max_depth: int = 32


DEFAULT_LIMITS = Limits()

Walk = Callable[[bytes, int, "Budget", int], int]

_INT = (-(2**31), 2**31 - 1)
_LONG = (-(2**63), 2**63 - 1)
_LONG_BITS = 64


class Budget:
    """What is left of the limits during one walk."""

    __slots__ = ("depth", "elements")

    def __init__(self, limits: Limits) -> None:
        self.elements = limits.max_elements
        self.depth = limits.max_depth


def compile_walk(schema: Schema) -> Walk:
    """The closure that walks a whole datum. It raises `DecodeError`, or `IndexError` at an early end."""
    return _Compiler().compile(schema.root)


class _Compiler:
    def __init__(self) -> None:
        self._done: dict[str, Walk] = {}

    def compile(self, node: Any) -> Walk:
        if isinstance(node, list):
            return _union([self.compile(branch) for branch in node])
        if isinstance(node, str):
            return _PRIMITIVES.get(node) or self._done.get(node) or self._late(node)
        kind = node["type"]
        if kind == "record":
            return self._keep(node, _record([self.compile(field["type"]) for field in node["fields"]]))
        if kind == "array":
            return _blocks(self.compile(node["items"]))
        if kind == "map":
            return _blocks(self.compile(node["values"]), keyed=True)
        if kind == "enum":
            return self._keep(node, _whole(0, len(node["symbols"]) - 1, "an index into the enum"))
        if kind == "fixed":
            return self._keep(node, _fixed(node))
        return _primitive(node, kind)

    def _keep(self, node: dict[str, Any], walk: Walk) -> Walk:
        self._done[node["name"]] = walk
        return walk

    def _late(self, name: str) -> Walk:
        def walk(data: bytes, position: int, budget: Budget, depth: int) -> int:
            if depth >= budget.depth:
                raise DecodeError(f"{name} is nested in itself deeper than {budget.depth} levels")
            return self._done[name](data, position, budget, depth + 1)

        return walk


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag number and the position after it."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    number = byte & 0x7F
    shift = 7
    while byte & 0x80:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if number >> _LONG_BITS or shift > _LONG_BITS + 6:
            raise DecodeError(f"the number before byte {position} is longer than 64 bits")
    return (number >> 1) ^ -(number & 1), position


def _whole(low: int, high: int, what: str) -> Walk:
    def walk(data: bytes, position: int, _budget: Budget, _depth: int) -> int:
        number, after = _varint(data, position)
        if low <= number <= high:
            return after
        raise DecodeError(f"the number at byte {position} is not {what}: {low} to {high}")

    return walk


def _null(_data: bytes, position: int, _budget: Budget, _depth: int) -> int:
    return position


def _boolean(data: bytes, position: int, _budget: Budget, _depth: int) -> int:
    if data[position] > 1:
        raise DecodeError(f"byte {position} is not a boolean")
    return position + 1


def _sized(data: bytes, position: int, _budget: Budget, _depth: int) -> int:
    length, position = _varint(data, position)
    end = position + length
    if length < 0 or end > len(data):
        raise DecodeError(f"a length before byte {position} points outside the {len(data)} bytes")
    return end


def _bytes_of(size: int) -> Walk:
    def walk(data: bytes, position: int, _budget: Budget, _depth: int) -> int:
        end = position + size
        if end > len(data):
            raise DecodeError(f"it ends at byte {len(data)}, inside a value of {size} bytes")
        return end

    return walk


def _decimal(node: dict[str, Any], body: Walk, prefixed: bool) -> Walk:  # noqa: FBT001 - two forms on the wire
    precision, _ = decimal_shape(node)
    bound = 10**precision

    def walk(data: bytes, position: int, budget: Budget, depth: int) -> int:
        end = body(data, position, budget, depth)
        start = _varint(data, position)[1] if prefixed else position
        if abs(int.from_bytes(data[start:end], "big", signed=True)) >= bound:
            raise DecodeError(f"the decimal at byte {start} has more than {precision} digits")
        return end

    return walk


def _fixed(node: dict[str, Any]) -> Walk:
    walk = _bytes_of(node["size"])
    return _decimal(node, walk, prefixed=False) if logical_type(node) == "decimal" else walk


def _primitive(node: dict[str, Any], kind: str) -> Walk:
    logical = logical_type(node)
    if logical in RANGES:
        return _whole(*RANGES[logical], f"a {logical}")
    if logical == "decimal":
        return _decimal(node, _sized, prefixed=True)
    return _PRIMITIVES[kind]


_PRIMITIVES: dict[str, Walk] = {
    "null": _null,
    "boolean": _boolean,
    "int": _whole(*_INT, "an int"),
    "long": _whole(*_LONG, "a long"),
    "float": _bytes_of(4),
    "double": _bytes_of(8),
    "bytes": _sized,
    "string": _sized,
}


def _record(fields: list[Walk]) -> Walk:
    def walk(data: bytes, position: int, budget: Budget, depth: int) -> int:
        for field in fields:
            position = field(data, position, budget, depth)
        return position

    return walk


def _union(branches: list[Walk]) -> Walk:
    def walk(data: bytes, position: int, budget: Budget, depth: int) -> int:
        index, after = _varint(data, position)
        if not 0 <= index < len(branches):
            raise DecodeError(f"the number at byte {position} is not one of the union's {len(branches)} branches")
        return branches[index](data, after, budget, depth)

    return walk


def _blocks(item: Walk, *, keyed: bool = False) -> Walk:
    """An array or a map: blocks of items until an empty one; a negative count is followed by the block's size."""

    def walk(data: bytes, position: int, budget: Budget, depth: int) -> int:
        while True:
            count, position = _varint(data, position)
            if count == 0:
                return position
            end = None
            if count < 0:
                count = -count
                size, position = _varint(data, position)
                end = position + size
            budget.elements -= count
            if budget.elements < 0:
                raise DecodeError(f"it has more array and map elements than allowed (at byte {position})")
            for _ in range(count):
                if keyed:
                    position = _sized(data, position, budget, depth)
                position = item(data, position, budget, depth)
            if end is not None and end != position:
                raise DecodeError(f"the block that ends at byte {position} announced another size")

    return walk
