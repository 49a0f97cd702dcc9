"""Defaults as they stand in a schema's JSON, checked and turned into what the wire takes.

The result is in the form fastavro writes for a schema without logical types: a union's value is `(branch, value)`,
bytes are bytes (in JSON they are text whose code points are the bytes).
"""

from typing import Any

_INTEGERS = {"int": 2**31, "long": 2**63}


class BadDefault(Exception):
    """The JSON value does not fit; the text says what it should be."""


def default_datum(node: Any, value: Any, names: dict[str, dict[str, Any]]) -> Any:
    """The datum for a default, or `BadDefault`. A union's default must fit its first branch."""
    if isinstance(node, list):
        first = node[0]
        name = first if isinstance(first, str) else first.get("name", first["type"])
        return name, default_datum(first, value, names)
    if isinstance(node, str):
        return default_datum(names[node], value, names) if node in names else _scalar(node, node, value)
    kind = node["type"]
    if kind == "record":
        return _record(node, value, names)
    if kind == "array" and isinstance(value, list):
        return [default_datum(node["items"], item, names) for item in value]
    if kind == "map" and isinstance(value, dict):
        return {key: default_datum(node["values"], item, names) for key, item in value.items()}
    return _scalar(node, kind, value)


def _record(node: dict[str, Any], value: Any, names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadDefault("must be an object")
    found = {}
    for field in node["fields"]:
        name = field["name"]
        if name not in value and "default" not in field:
            raise BadDefault(f"lacks the field {name!r}")
        found[name] = default_datum(field["type"], value.get(name, field.get("default")), names)
    if len(found.keys() | value.keys()) != len(found):
        raise BadDefault("has a field that the record does not have")
    return found


def _scalar(node: Any, kind: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "null" and value is None:
        return None
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind in _INTEGERS and number and isinstance(value, int) and -_INTEGERS[kind] <= value < _INTEGERS[kind]:
        return value
    if kind in {"float", "double"} and number:
        return float(value)
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "enum" and value in node["symbols"]:
        return value
    if kind in {"bytes", "fixed"} and isinstance(value, str) and all(ord(char) < 256 for char in value):
        data = value.encode("latin-1")
        if kind == "bytes" or len(data) == node["size"]:
            return data
    raise BadDefault(f"must be {'an' if kind[0] in 'aei' else 'a'} {kind}")


def json_default(datum: Any) -> Any:
    """The inverse of `default_datum`: a lowered datum as it stands in a schema's JSON."""
    if isinstance(datum, tuple):
        return json_default(datum[1])
    if isinstance(datum, bytes):
        return datum.decode("latin-1")
    if isinstance(datum, list):
        return [json_default(item) for item in datum]
    if isinstance(datum, dict):
        return {key: json_default(item) for key, item in datum.items()}
    return datum
