"""Values checked strictly and put into the one form that fastavro can only write as it is meant.

A schema is compiled once into closures. Each takes a value and returns what goes to fastavro: logical types already
turned into their base types, a union's value as `(branch, value)`. Alone, fastavro writes 1.5 into an int as 1,
2**31 into an int, drops extra fields and takes naive datetimes; none of that passes here.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from dovetail_schemas.avro.defaults import default_datum
from dovetail_schemas.avro.logical import logical_type
from dovetail_schemas.avro.scalars import PRIMITIVES, SHOWN_CHARS, Lower, Misfit, enum_of, fixed, logical, show, string
from dovetail_schemas.avro.schema import Schema, branch_name

# A recursive type inside itself; see MAX_SCHEMA_DEPTH for the product of the two.
MAX_RECURSION = 32

_ABSENT = object()
# A value that fits several branches goes to the one that keeps it best: 5 is a long before it is a double.
_UNION_RANK = {"double": 1, "float": 2}


def compile_writer(schema: Schema) -> Lower:
    """The closure that checks and lowers a whole datum. It raises `Misfit`."""
    return _Compiler(schema).compile(schema.root)


class _Compiler:
    def __init__(self, schema: Schema) -> None:
        self._names = schema.names
        self._done: dict[str, Lower] = {}

    def compile(self, node: Any) -> Lower:
        if isinstance(node, list):
            return self._union(node)
        if isinstance(node, str):
            return PRIMITIVES.get(node) or self._done.get(node) or self._late(node)
        kind, named = node["type"], logical_type(node)
        if named is not None:
            return self._keep(node, logical(node, named))
        if kind == "record":
            return self._record(node)
        if kind == "array":
            return _array(self.compile(node["items"]))
        if kind == "map":
            return _map(self.compile(node["values"]))
        if kind == "enum":
            return self._keep(node, enum_of(node["symbols"]))
        if kind == "fixed":
            return self._keep(node, fixed(node["size"]))
        return PRIMITIVES[kind]

    def _keep(self, node: dict[str, Any], lower: Lower) -> Lower:
        if "name" in node:
            self._done[node["name"]] = lower
        return lower

    def _late(self, name: str) -> Lower:
        """A type inside itself: bound when called, and counted, because only such a value can be deep."""

        def lower(value: Any, depth: int) -> Any:
            if depth >= MAX_RECURSION:
                raise Misfit(f"{name} is nested in itself deeper than {MAX_RECURSION} levels")
            return self._done[name](value, depth + 1)

        return lower

    def _record(self, node: dict[str, Any]) -> Lower:
        fields = [(field["name"], self.compile(field["type"]), self._default(field)) for field in node["fields"]]
        pairs = [(name, lower_field) for name, lower_field, _ in fields]
        count = len(pairs)

        def lower(value: Any, depth: int) -> dict[str, Any]:
            if type(value) is not dict:
                value = _as_dict(value)
            if len(value) != count:
                return _uneven(value, fields, depth)
            found = {}
            name = ""
            try:
                for name, lower_field in pairs:
                    found[name] = lower_field(value[name], depth)
            except KeyError:
                return _uneven(value, fields, depth)
            except Misfit as misfit:
                misfit.path.append(f".{name}")
                raise
            return found

        return self._keep(node, lower)

    def _default(self, field: dict[str, Any]) -> Any:
        return default_datum(field["type"], field["default"], self._names) if "default" in field else _ABSENT

    def _union(self, node: list[Any]) -> Lower:
        branches = [(branch_name(branch), self.compile(branch)) for branch in node]
        others = [branch for branch in branches if branch[0] != "null"]
        if len(others) == 1:
            return _optional(*others[0]) if len(branches) > 1 else _tagged(*others[0])
        others.sort(key=lambda branch: _UNION_RANK.get(branch[0], 0))
        named = {name.rpartition(".")[2]: (name, lower) for name, lower in others}
        nullable = len(others) < len(branches)
        allowed = ", ".join(name for name, _ in branches)

        def lower(value: Any, depth: int) -> tuple[str, Any]:
            if value is None and nullable:
                return _NULL
            # Two records may have the same fields; an instance says by its class which one it is.
            own = named.get(type(value).__name__)
            if own is not None:
                return own[0], own[1](value, depth)
            for name, lower_branch in others:
                try:
                    return name, lower_branch(value, depth)
                except Misfit:
                    continue
            raise Misfit(f"{show(value)} fits none of {allowed}")

        return lower


_NULL = ("null", None)


def _optional(name: str, lower_value: Lower) -> Lower:
    def lower(value: Any, depth: int) -> tuple[str, Any]:
        return _NULL if value is None else (name, lower_value(value, depth))

    return lower


def _tagged(name: str, lower_value: Lower) -> Lower:
    return lambda value, depth: (name, lower_value(value, depth))


def _as_dict(value: Any) -> dict[Any, Any]:
    cls = type(value)
    names = _attribute_names(cls)  # type: ignore[arg-type]  # mypy doubts that classes are hashable
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        return dict(value)
    raise Misfit(f"{show(value)} is not a record: a dict, a dataclass or a model")


@lru_cache(maxsize=1024)
def _attribute_names(cls: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    model_fields = getattr(cls, "model_fields", None)
    return tuple(model_fields) if isinstance(model_fields, dict) else None


def _uneven(value: dict[Any, Any], fields: list[tuple[str, Lower, Any]], depth: int) -> dict[str, Any]:
    """A record whose keys are not exactly its fields: defaults fill what is missing, anything else is refused."""
    extra = value.keys() - {name for name, _, _ in fields}
    if extra:
        shown = ", ".join(sorted(repr(key) if isinstance(key, str) else type(key).__name__ for key in extra))
        known = ", ".join(name for name, _, _ in fields)
        raise Misfit(
            f"the record has no field {shown[:SHOWN_CHARS]}", f"has a field that is none of {known[:SHOWN_CHARS]}"
        )
    found = {}
    for name, lower_field, default in fields:
        try:
            if name in value:
                found[name] = lower_field(value[name], depth)
            elif default is not _ABSENT:
                found[name] = default
            else:
                raise Misfit("is missing and has no default")
        except Misfit as misfit:
            misfit.path.append(f".{name}")
            raise
    return found


def _array(lower_item: Lower) -> Lower:
    def lower(value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise Misfit(f"{show(value)} is not a list")
        found: list[Any] = []
        try:
            for item in value:
                found.append(lower_item(item, depth))  # noqa: PERF401 - its length is the failing index
        except Misfit as misfit:
            misfit.path.append(f"[{len(found)}]")
            raise
        return found

    return lower


def _map(lower_value: Lower) -> Lower:
    def lower(value: Any, depth: int) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Misfit(f"{show(value)} is not a dict")
        found: dict[str, Any] = {}
        try:
            for key, item in value.items():
                found[string(key, depth)] = lower_value(item, depth)
        except Misfit as misfit:
            # A map's keys are data, not names from the schema.
            misfit.path.append(f"{{{len(found)}}}")
            raise
        return found

    return lower
