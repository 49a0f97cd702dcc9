r"""JSON → Avro, for rows that were written by SQL alone (`dovetail.publish`) and pinned to a schema at INSERT.

JSON has fewer types than Avro, so what a schema calls a timestamp or a decimal is text or a number here. The forms that
are taken are those that PostgreSQL's own `to_jsonb` gives; everything else is left as it is for the strict codec of
`dovetail_schemas`, which accepts a value as it is meant or refuses it. Nothing is guessed.

| Avro | in JSON |
|---|---|
| int, long | a number without a fraction |
| float, double | a number |
| decimal | a number, or the same as text |
| bytes, fixed | text: `\x0aff` as to_jsonb writes it, or `base64:Cv8=` |
| date, time-*, timestamp-*, local-timestamp-* | text as ISO 8601 writes it in full |
| union of null and one type | null or that type's form |
| any other union | only what needs no conversion |
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from math import isinf
from typing import Any, Final, NoReturn

from dovetail_schemas.avro import Codec
from dovetail_schemas.errors import SchemaMismatch

Convert = Callable[[Any], Any]

# With more digits a number is no long anyway, and turning 1e999999 into an int would take minutes.
_LONG_DIGITS: Final = 20
_LONG_END: Final = 2**63
_DECIMAL: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d{1,4})?", re.ASCII)
_DATE: Final = r"\d{4}-\d\d-\d\d"
_TIME: Final = r"\d\d:\d\d(:\d\d([.]\d{1,6}(?P<finer>\d*))?)?"
_ZONE: Final = r"(Z|z|[+-]\d\d(:?\d\d(:\d\d)?)?)?"
_DAY: Final = re.compile(_DATE, re.ASCII)
_CLOCK: Final = re.compile(_TIME + _ZONE, re.ASCII)
_MOMENT: Final = re.compile(_DATE + "[Tt ]" + _TIME + _ZONE, re.ASCII)
_HEX: Final = "\\x"
_BASE64: Final = "base64:"


class Unfit(ValueError):
    """The JSON does not fit. The message says where and which rule, and has nothing of the payload in it."""


class FromJson:
    """One schema's converter. Immutable once made. Raises SchemaInvalid (a ValueError) for a schema that is none."""

    def __init__(self, definition: str) -> None:
        self._codec = Codec(definition)
        self._convert = _Compiler().compile(json.loads(self._codec.normalised))

    def encode(self, payload: bytes) -> bytes:
        """The Avro body of a JSON text in UTF-8. Raises Unfit for what is not JSON or does not fit."""
        try:
            value = json.loads(payload, parse_float=Decimal, parse_constant=_refuse_constant)
        except RecursionError:
            raise Unfit("it is nested too deep") from None
        except ValueError:
            raise Unfit("it is not JSON") from None
        except ArithmeticError:
            raise Unfit("it holds a number out of all bounds") from None
        try:
            return self._codec.encode(self._convert(value))
        except _Misplaced as misplaced:
            place = f"{self._codec.name.rpartition('.')[2]}{''.join(reversed(misplaced.path))}"
            raise Unfit(f"{place}: {misplaced}") from None
        except SchemaMismatch as mismatch:
            raise Unfit(mismatch.without_value) from None
        except (RecursionError, ArithmeticError):
            # An integer of hundreds of digits, or a time zone off the calendar.
            raise Unfit("it is nested too deep or holds a number out of all bounds") from None


class _Misplaced(Exception):
    """A value that cannot be converted; `path` is collected from the inside out."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.path: list[str] = []


class _Compiler:
    """A schema, in its normalised form, as a tree of functions. A named type is compiled where it is first written."""

    def __init__(self) -> None:
        self._named: dict[str, Convert] = {}

    def compile(self, node: Any) -> Convert:
        if isinstance(node, list):
            return self._union(node)
        if isinstance(node, str):
            return _PRIMITIVES[node] if node in _PRIMITIVES else self._named[node]
        kind, logical = node["type"], node.get("logicalType")
        if (kind, logical) in _LOGICAL:
            return self._keep(node, _LOGICAL[kind, logical])
        if kind == "record":
            return self._record(node)
        if kind == "array":
            return _each(self.compile(node["items"]))
        if kind == "map":
            return _each_value(self.compile(node["values"]))
        return self._keep(node, _PRIMITIVES.get(kind, _same))

    def _keep(self, node: dict[str, Any], convert: Convert) -> Convert:
        if "name" in node:
            self._named[node["name"]] = convert
        return convert

    def _record(self, node: dict[str, Any]) -> Convert:
        fields = {field["name"]: self.compile(field["type"]) for field in node["fields"]}

        def convert(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            # A field that the schema does not have stays, for the codec to refuse.
            found, name = {}, ""
            try:
                for name, item in value.items():
                    found[name] = fields.get(name, _same)(item)
            except _Misplaced as misplaced:
                misplaced.path.append(f".{name}")
                raise
            return found

        return self._keep(node, convert)

    def _union(self, branches: list[Any]) -> Convert:
        others = [self.compile(branch) for branch in branches if branch != "null"]
        if len(others) != 1:
            return _number_in_union if "double" in branches or "float" in branches else _same
        only = others[0]
        return lambda value: None if value is None else only(value)


def _same(value: Any) -> Any:
    return value


def _integer(value: Any) -> Any:
    """jsonb keeps 5.0 as it was written; it is the integer 5 nevertheless."""
    if isinstance(value, Decimal) and value.adjusted() < _LONG_DIGITS and value == value.to_integral_value():
        return int(value)
    return value


def _number(value: Any) -> Any:
    """A double is the nearest one, as for every JSON reader; jsonb writes 1e300 as an integer of 301 digits.

    Beyond the largest there is no nearest one, though Python says infinity.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        return value
    nearest = float(value)
    if isinf(nearest):
        raise _Misplaced("the number is out of range for a double")
    return nearest


def _number_in_union(value: Any) -> Any:
    """An integer stays one where the union may have a place for it."""
    return value if isinstance(value, int) and -_LONG_END <= value < _LONG_END else _number(value)


def _decimal(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    # Python also takes underscores, spaces and the digits of every script.
    return Decimal(value) if isinstance(value, int) or _DECIMAL.fullmatch(value) else value


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        if value.startswith(_HEX):
            return bytes.fromhex(value.removeprefix(_HEX))
        if value.startswith(_BASE64):
            return b64decode(value.removeprefix(_BASE64), validate=True)
    except ValueError:
        pass
    # Nothing is guessed: what bytea_output = escape gives may look like base64, and mean something else.
    raise _Misplaced(rf"the text is neither {_HEX} and hexadecimal digits nor {_BASE64} and base64")


def _parsed(form: re.Pattern[str], parse: Callable[[str], Any]) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        # Python also takes weeks, hours alone and a comma.
        if (whole := form.fullmatch(value)) is None:
            raise _Misplaced("the text is not ISO 8601 in full")
        # Python cuts what comes after the microseconds off; a clock in nanoseconds has digits there.
        if (cut := whole.groupdict().get("finer")) and cut.strip("0"):
            raise _Misplaced("the time is finer than a microsecond")
        try:
            return parse(value)
        except ValueError:
            raise _Misplaced("the text is no date or time that there is") from None

    return convert


def _each(convert: Convert) -> Convert:
    def each(value: Any) -> Any:
        return _all(convert, value, "[]") if isinstance(value, list) else value

    return each


def _each_value(convert: Convert) -> Convert:
    def each_value(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return dict(zip(value, _all(convert, value.values(), "{}"), strict=True))

    return each_value


def _all(convert: Convert, items: Iterable[Any], brackets: str) -> list[Any]:
    """Each item converted. A map's keys are data: its places are counted too."""
    found: list[Any] = []
    try:
        for item in items:
            found.append(convert(item))  # noqa: PERF401 - its length is the failing index
    except _Misplaced as misplaced:
        misplaced.path.append(f"{brackets[0]}{len(found)}{brackets[1]}")
        raise
    return found


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_PRIMITIVES: Final[dict[str, Convert]] = {
    "null": _same,
    "boolean": _same,
    "string": _same,
    "int": _integer,
    "long": _integer,
    "float": _number,
    "double": _number,
    "bytes": _bytes,
    "fixed": _bytes,
}
_LOGICAL: Final[dict[tuple[str, str | None], Convert]] = {
    ("bytes", "decimal"): _decimal,
    ("fixed", "decimal"): _decimal,
    ("int", "date"): _parsed(_DAY, date.fromisoformat),
    ("int", "time-millis"): _parsed(_CLOCK, time.fromisoformat),
    ("long", "time-micros"): _parsed(_CLOCK, time.fromisoformat),
    ("long", "timestamp-millis"): _parsed(_MOMENT, datetime.fromisoformat),
    ("long", "timestamp-micros"): _parsed(_MOMENT, datetime.fromisoformat),
    ("long", "local-timestamp-millis"): _parsed(_MOMENT, datetime.fromisoformat),
    ("long", "local-timestamp-micros"): _parsed(_MOMENT, datetime.fromisoformat),
}
