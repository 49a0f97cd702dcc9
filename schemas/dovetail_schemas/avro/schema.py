"""One spelling for each schema, and the rules it must keep.

The normalised text is the schema's full JSON: names made full, keys in a fixed order, no whitespace. Defaults,
aliases, logical types, documentation and foreign attributes stay, because a reader may depend on them; Avro's own
parsing canonical form drops most of these and cannot tell two versions apart that differ in a decimal's scale.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from dovetail_schemas.avro.defaults import BadDefault, default_datum
from dovetail_schemas.avro.logical import logical_problem
from dovetail_schemas.errors import SchemaInvalid, SchemaWarning

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED = frozenset({"record", "enum", "fixed"})
# Deep enough for any message a person designed; times the recursion limit of a datum it stays below what fastavro's
# compiled recursion survives (4,000 levels; at 5,000 the process dies).
MAX_SCHEMA_DEPTH = 64
MAX_TEXT_BYTES = 1_000_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_KEYS = ("name", "type", "aliases", "fields", "symbols", "items", "values", "size", "logicalType", "precision", "scale")
_RANK = {key: rank for rank, key in enumerate(_KEYS)}


def normalise(schema: Any, *, allow_recursive: bool = False) -> str:
    """The one spelling of a schema given as JSON text, dict, list or a primitive's name.

    Raises `SchemaInvalid` naming the place; an attribute without effect gives a `SchemaWarning`.
    """
    return json.dumps(parse(schema, allow_recursive=allow_recursive).root, separators=(",", ":"), allow_nan=False)


def fingerprint(normalised: str) -> bytes:
    """The first 16 bytes of the SHA-256 of a normalised schema."""
    return hashlib.sha256(normalised.encode()).digest()[:16]


def schema_id(fingerprint: bytes) -> int:
    """The number that Kafka values carry: the fingerprint's first 31 bits after the sign bit."""
    return int.from_bytes(fingerprint[:4], "big") & 0x7FFFFFFF


def parse(schema: Any, *, allow_recursive: bool = False) -> "Schema":
    """Check a schema and make its names full."""
    return Schema(_load(schema), allow_recursive=allow_recursive)


class Schema:
    """A checked schema: `root` is its normalised tree, `names` the tree of each named type by full name."""

    def __init__(self, source: Any, *, allow_recursive: bool) -> None:
        self.names: dict[str, dict[str, Any]] = {}
        self._allow_recursive = allow_recursive
        self._open: set[str] = set()
        self._defaults: list[tuple[str, Any, Any]] = []
        self.root = self._visit(source, "", "schema", 0)
        for path, node, default in self._defaults:
            try:
                default_datum(node, default, self.names)
            except BadDefault as error:
                raise SchemaInvalid(f"{path}: the default {error}") from None

    def _visit(self, source: Any, namespace: str, path: str, depth: int) -> Any:
        if depth > MAX_SCHEMA_DEPTH:
            _refuse(path, f"nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if isinstance(source, str):
            return source if source in PRIMITIVES else self._reference(source, namespace, path)
        if isinstance(source, list):
            return self._union(source, namespace, path, depth)
        if not isinstance(source, dict):
            _refuse(path, f"a schema is a name, an object or a list, not {type(source).__name__}")
        kind = source.get("type")
        if isinstance(kind, dict | list) and len(source) == 1:
            return self._visit(kind, namespace, path, depth + 1)
        if not isinstance(kind, str):
            _refuse(path, "an object needs a 'type' that is a name")
        if kind in PRIMITIVES:
            return self._primitive(source, kind, path)
        compound: dict[str, Callable[[dict[str, Any], str, str, int], dict[str, Any]]] = {
            "record": self._record, "error": self._record, "enum": self._enum, "fixed": self._fixed,
            "array": self._container, "map": self._container,
        }  # fmt: skip
        if kind in compound:
            return compound[kind](source, namespace, path, depth)
        if len(source) > 1:
            _refuse(path, f"attributes next to the reference {kind!r} have no meaning in Avro")
        return self._reference(kind, namespace, path)

    def _primitive(self, source: dict[str, Any], kind: str, path: str) -> Any:
        if len(source) == 1:
            return kind
        self._check_logical(source, kind, path)
        return _ordered({**source, "type": kind})

    def _reference(self, name: str, namespace: str, path: str) -> str:
        found = name if "." in name or not namespace else f"{namespace}.{name}"
        if found in self._open and not self._allow_recursive:
            _refuse(path, f"{found} contains itself; pass allow_recursive=True if that is meant")
        if found not in self.names:
            _refuse(path, f"{name[:80]!r} is not a primitive type, nor a type defined before this place")
        return found

    def _union(self, source: list[Any], namespace: str, path: str, depth: int) -> list[Any]:
        branches: list[Any] = []
        seen: set[str] = set()
        for index, branch in enumerate(source):
            where = f"{path}[{index}]"
            node = self._visit(branch, namespace, where, depth + 1)
            if isinstance(node, list):
                _refuse(where, "a union may not hold a union")
            name = branch_name(node)
            if name in seen:
                _refuse(where, f"the union has {name} twice")
            seen.add(name)
            branches.append(node)
        if not branches:
            _refuse(path, "a union needs at least one branch")
        return branches

    def _record(self, source: dict[str, Any], namespace: str, path: str, depth: int) -> dict[str, Any]:
        name, space = self._define(source, namespace, path)
        fields = source.get("fields")
        if not isinstance(fields, list):
            _refuse(name, "a record needs a list of 'fields'")
        self._open.add(name)
        seen: set[str] = set()
        nodes = []
        for field in fields:
            if not isinstance(field, dict) or "type" not in field:
                _refuse(name, "each field needs a 'name' and a 'type'")
            label = field.get("name")
            if not isinstance(label, str) or not _NAME.fullmatch(label):
                _refuse(name, f"{_shown(label)} is not a field name: letters, digits and _, not beginning with a digit")
            for used in (label, *_aliases(field, name)):
                if used in seen:
                    _refuse(name, f"the field name {used!r} is used twice")
                seen.add(used)
            nodes.append(self._field(field, space, f"{name}.{label}", depth))
        self._open.discard(name)
        node = self.names[name]
        node.update(_ordered({**_attributes(source), "type": "record", "name": name, "fields": nodes}))
        return node

    def _field(self, field: dict[str, Any], namespace: str, path: str, depth: int) -> dict[str, Any]:
        inner = field["type"]
        # Tools often put a field's logical type beside 'type'; Avro does not read it there.
        if "logicalType" in field:
            _warn(f"{path}: logicalType beside the field's type has no effect; put it inside: {{'type': {{…}}}}")
        node = self._visit(inner, namespace, path, depth + 1)
        if "default" in field:
            self._defaults.append((path, node, field["default"]))
        return _ordered({**field, "type": node})

    def _enum(self, source: dict[str, Any], namespace: str, path: str, _depth: int) -> dict[str, Any]:
        name, _ = self._define(source, namespace, path)
        symbols = source.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            _refuse(name, "an enum needs a list of 'symbols'")
        for symbol in symbols:
            if not isinstance(symbol, str) or not _NAME.fullmatch(symbol):
                _refuse(name, f"{_shown(symbol)} is not a symbol: letters, digits and _, not beginning with a digit")
        if len(set(symbols)) != len(symbols):
            _refuse(name, "a symbol is listed twice")
        if "default" in source and source["default"] not in symbols:
            _refuse(name, "the default is not one of the symbols")
        node = self.names[name]
        node.update(_ordered({**_attributes(source), "type": "enum", "name": name}))
        return node

    def _fixed(self, source: dict[str, Any], namespace: str, path: str, _depth: int) -> dict[str, Any]:
        name, _ = self._define(source, namespace, path)
        size = source.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            _refuse(name, "a fixed type needs a 'size' of at least 1")
        self._check_logical(source, "fixed", name)
        node = self.names[name]
        node.update(_ordered({**_attributes(source), "type": "fixed", "name": name}))
        return node

    def _container(self, source: dict[str, Any], namespace: str, path: str, depth: int) -> dict[str, Any]:
        part = "items" if source["type"] == "array" else "values"
        if part not in source:
            _refuse(path, f"an {source['type']} needs {part!r}" if part == "items" else "a map needs 'values'")
        node = self._visit(source[part], namespace, f"{path}[]" if part == "items" else f"{path}{{}}", depth + 1)
        return _ordered({**source, part: node})

    def _define(self, source: dict[str, Any], namespace: str, path: str) -> tuple[str, str]:
        name, space = source.get("name"), source.get("namespace", namespace)
        if not isinstance(name, str) or not isinstance(space, str):
            _refuse(path, f"a {source['type']} needs a 'name' that is text")
        full = name if "." in name or not space else f"{space}.{name}"
        if not _FULL_NAME.fullmatch(full) or full in PRIMITIVES:
            _refuse(path, f"{full[:80]!r} is not a type name: letters, digits and _, parts joined by dots")
        if full in self.names:
            _refuse(path, f"{full} is defined twice")
        if namespace and "." not in full:
            # Written out in full it would have no dot, and every reader would put it back into the namespace around it.
            _refuse(path, f"{full} has no namespace, but lies inside {namespace}; give it one")
        # Filled in place afterwards: a recursive reference and a default may look at it before it is whole.
        self.names[full] = {}
        space = full.rpartition(".")[0]
        if "aliases" in source:
            aliases = _aliases(source, full)
            source["aliases"] = [alias if "." in alias or not space else f"{space}.{alias}" for alias in aliases]
        return full, space

    @staticmethod
    def _check_logical(source: dict[str, Any], kind: str, path: str) -> None:
        problem, fatal = logical_problem(source, kind)
        if problem and fatal:
            _refuse(path, problem)
        if problem:
            _warn(f"{path}: {problem}")


def branch_name(node: Any) -> str:
    """What tells a union's branches apart: the full name of a named type, else the type."""
    if isinstance(node, str):
        return node
    kind: str = node["name"] if node["type"] in NAMED else node["type"]
    return kind


def _load(schema: Any) -> Any:
    if isinstance(schema, str) and (schema in PRIMITIVES):
        return schema
    try:
        # Dicts go through text as well: the copy is ours to fill, and what is not JSON is found here.
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        if len(text) > MAX_TEXT_BYTES:
            raise SchemaInvalid(f"the schema has {len(text)} characters; at most {MAX_TEXT_BYTES} are allowed")
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, SchemaInvalid):
            raise
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:80]
        raise SchemaInvalid(f"the schema is not JSON: {reason}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise SchemaInvalid("the schema's JSON has one key twice in the same object")
    return found


def _attributes(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "namespace"}


def _ordered(source: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(source.items(), key=lambda item: (_RANK.get(item[0], len(_RANK)), item[0])))


def _aliases(source: dict[str, Any], path: str) -> list[str]:
    aliases = source.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) and _FULL_NAME.fullmatch(a) for a in aliases):
        _refuse(path, "aliases must be a list of names")
    return aliases


def _shown(value: object) -> str:
    return f"{value[:80]!r}" if isinstance(value, str) else type(value).__name__


def _refuse(path: str, problem: str) -> NoReturn:
    raise SchemaInvalid(f"{path}: {problem}")


def _warn(message: str) -> None:
    warnings.warn(message, SchemaWarning, stacklevel=2)
