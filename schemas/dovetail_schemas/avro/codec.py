"""Values to bytes and back, for one schema that is compiled once."""

import json
from functools import cached_property
from io import BytesIO
from typing import Any

from dovetail_schemas.avro.defaults import json_default
from dovetail_schemas.avro.reading import DEFAULT_LIMITS, Budget, Limits, compile_walk
from dovetail_schemas.avro.scalars import Misfit
from dovetail_schemas.avro.schema import branch_name, fingerprint, parse, schema_id
from dovetail_schemas.avro.writing import compile_writer
from dovetail_schemas.errors import DecodeError, SchemaInvalid, SchemaMismatch


class Codec:
    """Strict encoding and bounded decoding. Immutable after construction and safe to share between threads.

    `normalised`, `fingerprint` and `schema_id` name the schema; `name` is that of its outermost type.
    """

    def __init__(self, schema: Any, *, allow_recursive: bool = False) -> None:
        parsed = parse(schema, allow_recursive=allow_recursive)
        self.normalised = json.dumps(parsed.root, separators=(",", ":"), allow_nan=False)
        self.fingerprint = fingerprint(self.normalised)
        self.schema_id = schema_id(self.fingerprint)
        self.name = "union" if isinstance(parsed.root, list) else branch_name(parsed.root)
        self._label = self.name.rpartition(".")[2]
        self._schema = parsed
        self._lower = compile_writer(parsed)

    def __repr__(self) -> str:
        return f"<Codec {self.name} {self.fingerprint.hex()}>"

    def encode(self, datum: Any) -> bytes:
        """The Avro body of a dict, dataclass or model (or whatever the schema's outermost type is).

        Raises `SchemaMismatch` naming the place, e.g. `OrderPlaced.lines[3].amount: 1.5 is not an int`.
        """
        try:
            lowered = self._lower(datum, 0)
        except Misfit as misfit:
            place = f"{self._label}{''.join(reversed(misfit.path))}"
            raise SchemaMismatch(f"{place}: {misfit}", without_value=f"{place}: {misfit.rule}") from None
        except RecursionError:
            raise SchemaMismatch(f"{self._label}: the value is nested too deep") from None
        out = BytesIO()
        write, written = self._writer
        write(out, written, lowered)
        return out.getvalue()

    def decode(self, body: bytes, limits: Limits = DEFAULT_LIMITS, *, reader: "Codec | None" = None) -> Any:
        """The datum of an Avro body this schema wrote, as `reader`'s schema sees it where one is given.

        Records are dicts; timestamps are aware datetimes in UTC. Every failure is a `DecodeError`.
        """
        if len(body) > limits.max_bytes:
            raise DecodeError(f"{self._label}: {len(body)} bytes are more than the {limits.max_bytes} allowed")
        try:
            end = self._walk(body, 0, Budget(limits), 0)
        except DecodeError as error:
            raise DecodeError(f"{self._label}: {error}") from None
        except IndexError:
            raise DecodeError(f"{self._label}: it ends early, after {len(body)} bytes") from None
        except RecursionError:
            raise DecodeError(f"{self._label}: the value is nested too deep") from None
        if end != len(body):
            raise DecodeError(f"{self._label}: {len(body) - end} bytes are left over after the value")
        read, written = self._reader
        try:
            return read(BytesIO(body), written, None if reader is None else reader._reader[1])
        except Exception as error:  # noqa: BLE001 - bytes from outside: whatever they raise is one thing to the caller
            raise DecodeError(f"{self._label}: {_reason(error, reader)}") from None

    # fastavro costs a tenth of a second to import, and a process that only defines its events needs none of it.
    @cached_property
    def _writer(self) -> tuple[Any, Any]:
        from fastavro import schemaless_writer  # noqa: PLC0415

        return schemaless_writer, _for_fastavro(_without_logical_types(self._schema.root))

    @cached_property
    def _reader(self) -> tuple[Any, Any]:
        from fastavro import schemaless_reader  # noqa: PLC0415

        return schemaless_reader, _for_fastavro(self._schema.root)

    @cached_property
    def _walk(self) -> Any:
        return compile_walk(self._schema)


def _for_fastavro(root: Any) -> Any:
    from fastavro import parse_schema  # noqa: PLC0415

    try:
        return parse_schema(json.loads(json.dumps(root)))
    except Exception as error:  # noqa: BLE001 - any refusal of a schema is one thing to the caller
        raise SchemaInvalid(f"fastavro refuses the schema: {str(error)[:200]}") from None


def _without_logical_types(node: Any) -> Any:
    """The schema of what the writer's closures return: base types only, nothing left for fastavro to convert."""
    if isinstance(node, list):
        return [_without_logical_types(branch) for branch in node]
    if not isinstance(node, dict):
        return node
    bare = {key: value for key, value in node.items() if key in {"type", "name", "symbols", "size"}}
    if "fields" in node:
        bare["fields"] = [{"name": f["name"], "type": _without_logical_types(f["type"])} for f in node["fields"]]
    for part in ("items", "values"):
        if part in node:
            bare[part] = _without_logical_types(node[part])
    return bare


def _reason(error: Exception, reader: Codec | None) -> str:
    kind = type(error).__name__
    if kind == "SchemaResolutionError" and reader is not None:
        return f"what was written does not fit the reader's schema {reader.name}"
    return f"the bytes are not a valid value ({kind})"


def plain_default(schema: Any, value: Any) -> tuple[int, Any]:
    """A Python value as a default stands in a schema's JSON, and the union branch it fits (0 where there is none).

    Avro wants a default to fit a union's first branch, so the caller may have to turn the union.
    """
    parsed = parse(schema)
    try:
        lowered = compile_writer(parsed)(value, 0)
    except Misfit as misfit:
        raise SchemaMismatch(str(misfit)) from None
    branch = [branch_name(node) for node in parsed.root].index(lowered[0]) if isinstance(parsed.root, list) else 0
    return branch, json_default(lowered)
