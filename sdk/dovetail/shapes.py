"""Python classes as Avro records, and Avro records as Python objects again.

int → long, Annotated[int, Int32] → int, float → double, str, bytes, bool, datetime → timestamp-micros, date, time →
time-micros, UUID → string(uuid), Annotated[Decimal, Decimal(12, 2)] → decimal, Enum → enum, list and tuple[T, ...] →
array, dict[str, T] → map, dataclass → record, `X | None` and other unions → union. Defaults become Avro defaults.
"""

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal as PythonDecimal
from typing import Any, NamedTuple, Union, get_args, get_origin
from uuid import UUID

from dovetail.errors import EventTypeInvalid, SchemaInvalid, SchemaMismatch
from dovetail_schemas.avro import plain_default

Build = Callable[[Any], Any]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Decimal:
    """In `Annotated[decimal.Decimal, dovetail.Decimal(12, 2)]`: how many digits, and how many after the point."""

    precision: int
    scale: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Int32:
    """In `Annotated[int, dovetail.Int32()]`: an Avro int of 32 bits instead of a long."""


class Shape(NamedTuple):
    """A type's Avro schema, and how to build a value of the type from a decoded one (None: it is one already)."""

    schema: Any
    build: Build | None


_SCALARS: dict[Any, Any] = {
    type(None): "null",
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    bytes: "bytes",
    datetime: {"type": "long", "logicalType": "timestamp-micros"},
    date: {"type": "int", "logicalType": "date"},
    time: {"type": "long", "logicalType": "time-micros"},
    UUID: {"type": "string", "logicalType": "uuid"},
}
# What a decoded value of a branch looks like, so that a union's branches can be told apart when they are read.
_LOOKS = {"record": "dict", "map": "dict", "enum": "string", "array": "list", "int": "long"}


def shape_of(cls: type, scope: Mapping[str, Any], namespace: str | None) -> Shape:
    """The shape of a dataclass or a pydantic model; `scope` holds local names that its annotations may use."""
    if not _is_model(cls):
        raise EventTypeInvalid(f"{cls.__name__} is not a dataclass; put @dataclass below @dovetail.event(…)")
    reader = _Reader(scope, namespace)
    shape = reader.read(cls, cls.__name__)
    return shape._replace(schema=_once(shape.schema, set()))


def _is_model(cls: Any) -> bool:
    return isinstance(cls, type) and (
        dataclasses.is_dataclass(cls) or isinstance(getattr(cls, "model_fields", 0), dict)
    )


class _Reader:
    def __init__(self, scope: Mapping[str, Any], namespace: str | None) -> None:
        self._scope = dict(scope)
        self._namespace = namespace
        self._open: list[type] = []
        self._named: dict[str, type] = {}

    def read(self, annotation: Any, path: str) -> Shape:
        origin = get_origin(annotation)
        if origin is typing.Annotated:
            base, *marks = get_args(annotation)
            return self._marked(base, marks, path)
        if annotation is None or annotation in _SCALARS:
            return Shape(_SCALARS[annotation or type(None)], None)
        if origin in {Union, types.UnionType}:
            return self._union(get_args(annotation), path)
        arguments = get_args(annotation)
        if origin in {list, Sequence} or (origin is tuple and arguments[1:] == (...,)):
            item = self.read(arguments[0], f"{path}[]")
            return Shape({"type": "array", "items": item.schema}, _build_array(origin, item.build))
        if origin in {dict, Mapping} and arguments[0] is str:
            value = self.read(arguments[1], f"{path}{{}}")
            return Shape({"type": "map", "values": value.schema}, _build_map(value.build))
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return self._enum(annotation, path)
        if _is_model(annotation):
            return self._record(annotation, path)
        raise EventTypeInvalid(_no_form(annotation, path))

    def _marked(self, base: Any, marks: list[Any], path: str) -> Shape:
        for mark in marks:
            if isinstance(mark, Decimal) and base is PythonDecimal:
                parts = {"precision": mark.precision, "scale": mark.scale}
                return Shape({"type": "bytes", "logicalType": "decimal", **parts}, None)
            if (isinstance(mark, Int32) or mark is Int32) and base is int:
                return Shape("int", None)
            if isinstance(mark, Decimal | Int32):
                raise EventTypeInvalid(f"{path}: {type(mark).__name__} does not go with {_spelled(base)}")
        return self.read(base, path)

    def _union(self, branches: tuple[Any, ...], path: str) -> Shape:
        # null first, so that None can be the default; a field with another default turns the order.
        ordered = sorted(branches, key=lambda branch: branch is not type(None))
        shapes = [self.read(branch, path) for branch in ordered]
        looks = [_look(shape.schema) for shape in shapes]
        if len(set(looks)) != len(looks):
            raise EventTypeInvalid(
                f"{path}: two branches of the union read the same ({', '.join(looks)}); "
                "use one of them, or a schema with EventType.from_avsc"
            )
        builds = {_PYTHON[look]: shape.build for look, shape in zip(looks, shapes, strict=True) if shape.build}
        return Shape([shape.schema for shape in shapes], _build_union(builds) if builds else None)

    def _enum(self, cls: type[enum.Enum], path: str) -> Shape:
        values = [member.value for member in cls]
        by_value = all(isinstance(value, str) and _NAME.fullmatch(value) for value in values)
        symbols = values if by_value else [member.name for member in cls]
        schema = {"type": "enum", "name": self._name(cls, path), "symbols": symbols}
        return Shape(schema, cls if by_value else cls.__getitem__)

    def _record(self, cls: type, path: str) -> Shape:
        if cls in self._open:
            raise EventTypeInvalid(
                f"{path}: {cls.__name__} contains itself; if meant: EventType.from_avsc(…, allow_recursive=True)"
            )
        self._open.append(cls)
        name = self._name(cls, path)
        try:
            hints = typing.get_type_hints(cls, localns={**self._scope, cls.__name__: cls}, include_extras=True)
        except NameError as error:
            raise EventTypeInvalid(f"{path}: the annotation names {error.name!r}, which is not defined here") from None
        fields, builds = [], {}
        for part in _parts(cls):
            where = f"{path}.{part.name}"
            shape = self.read(hints[part.name], where)
            fields.append(_field(part, shape, where))
            if part.init:
                builds[part.name] = shape.build
        self._open.pop()
        return Shape({"type": "record", "name": name, "fields": fields}, _build_record(cls, builds))

    def _name(self, cls: type, path: str) -> str:
        name = f"{self._namespace}.{cls.__name__}" if self._namespace else cls.__name__
        if self._named.setdefault(name, cls) is not cls:
            raise EventTypeInvalid(
                f"{path}: two classes are called {name}; Avro tells types apart by name, so rename one"
            )
        return name


class _Part(NamedTuple):
    """One field of a class: `default` is a one-element tuple, or empty where there is none Avro can hold."""

    name: str
    init: bool
    default: tuple[Any, ...]


def _parts(cls: Any) -> list[_Part]:
    if dataclasses.is_dataclass(cls):
        found = [(f.name, f.init, f.default, f.default_factory) for f in dataclasses.fields(cls)]
    else:
        found = [(name, True, f.default, f.default_factory) for name, f in cls.model_fields.items()]
    return [_Part(name, init, _default(default, factory)) for name, init, default, factory in found]


def _default(default: Any, factory: Any) -> tuple[Any, ...]:
    # Any other factory makes a new value each time (uuid4, datetime.now): not a default that a schema can state.
    if factory in {list, dict, tuple}:
        return (factory(),)
    missing = default is dataclasses.MISSING or type(default).__name__ == "PydanticUndefinedType" or factory not in {
        None, dataclasses.MISSING,
    }  # fmt: skip
    return () if missing else (default,)


def _field(part: _Part, shape: Shape, path: str) -> dict[str, Any]:
    found = {"name": part.name, "type": shape.schema}
    if part.default:
        try:
            branch, found["default"] = plain_default(_once(shape.schema, set()), part.default[0])
        except (SchemaMismatch, SchemaInvalid) as error:
            raise EventTypeInvalid(f"{path}: the default does not fit the field's type ({error})") from None
        if isinstance(shape.schema, list):
            first = shape.schema[branch]
            found["type"] = [first, *(other for other in shape.schema if other is not first)]
    return found


def _once(node: Any, seen: set[str]) -> Any:
    """The schema with each named type spelled out only where it comes first, as Avro wants it."""
    if isinstance(node, list):
        return [_once(branch, seen) for branch in node]
    if not isinstance(node, dict):
        return node
    if "name" in node and node["type"] in {"record", "enum"}:
        if node["name"] in seen:
            return node["name"]
        seen.add(node["name"])
    found = dict(node)
    if "fields" in node:
        found["fields"] = [{**field, "type": _once(field["type"], seen)} for field in node["fields"]]
    for part in {"items", "values"} & node.keys():
        found[part] = _once(node[part], seen)
    return found


def _look(node: Any) -> str:
    kind = node if isinstance(node, str) else node.get("logicalType", node["type"])
    return _LOOKS.get(kind, kind)


_PYTHON: dict[str, type] = {
    "dict": dict, "string": str, "list": list, "long": int, "null": type(None), "boolean": bool, "double": float,
    "bytes": bytes, "timestamp-micros": datetime, "date": date, "time-micros": time, "uuid": UUID,
    "decimal": PythonDecimal,
}  # fmt: skip


def _build_record(cls: type, builds: dict[str, Build | None]) -> Build:
    def build(datum: dict[str, Any]) -> Any:
        return cls(**{name: made(datum[name]) if made else datum[name] for name, made in builds.items()})

    return build


def _build_array(origin: Any, item: Build | None) -> Build | None:
    if origin is tuple:
        return (lambda datum: tuple(map(item, datum))) if item else tuple
    return (lambda datum: list(map(item, datum))) if item else None


def _build_map(value: Build | None) -> Build | None:
    return (lambda datum: {key: value(item) for key, item in datum.items()}) if value else None


def _build_union(builds: dict[type, Build]) -> Build:
    def build(datum: Any) -> Any:
        made = builds.get(type(datum))
        return made(datum) if made else datum

    return build


def _spelled(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)[:80]


def _no_form(annotation: Any, path: str) -> str:
    if annotation is PythonDecimal:
        return f"{path}: say how many digits: Annotated[Decimal, dovetail.Decimal(12, 2)]"
    if annotation in {list, dict, tuple}:
        return f"{path}: say what is in it: list[str], dict[str, int]"
    return (
        f"{path}: {_spelled(annotation)} has no Avro form; use int, float, str, bytes, bool, datetime, date, time, "
        "UUID, Decimal, Enum, list, dict[str, …], a dataclass, or a union of these"
    )
