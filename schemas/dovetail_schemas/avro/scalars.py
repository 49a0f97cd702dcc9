"""The closures for single values: primitives, enums, fixed and the logical types.

Each takes a value and a depth that it ignores, and returns what fastavro writes for the base type; `Misfit` says
what the value is not.
"""

import decimal
import enum
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from dovetail_schemas.avro.logical import DAY_US, EPOCH, EPOCH_DAY, LOCAL_EPOCH, RANGES, decimal_shape

Lower = Callable[[Any, int], Any]

SHOWN_CHARS = 80
# What `show` makes of a number, at the beginning of a message.
_NUMBER = re.compile(r"^(?:-?\d\S*|Decimal\('[^']*'?\)?…?|-?inf|nan|a huge int)(?= )")
_FLOAT_MAX = 3.4028234663852886e38
_EXACT_FLOAT = {"float": 2**24, "double": 2**53}


class Misfit(Exception):
    """A value that does not fit; `path` is collected from the inside out.

    `rule` is the problem without anything of the value, for logs that must not carry any.
    """

    def __init__(self, problem: str, rule: str | None = None) -> None:
        super().__init__(problem)
        self.rule = _NUMBER.sub("the number", problem) if rule is None else rule
        self.path: list[str] = []


def show(value: object) -> str:
    """A value for a message: numbers as they are, everything that may be personal by type and size only."""
    if value is None or isinstance(value, bool | int | float | Decimal):
        try:
            text = repr(value)
        except ValueError:  # an int of more than 4,300 digits
            text = "a huge int"
        return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
    if isinstance(value, str):
        return f"a str of {len(value)} characters"
    if isinstance(value, bytes | bytearray | list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def enum_of(symbols: list[str]) -> Lower:
    allowed = frozenset(symbols)
    listed = ", ".join(symbols)
    of_members: dict[enum.Enum, str] = {}

    def lower(value: Any, _depth: int) -> str:
        if type(value) is str and value in allowed:
            return value
        if isinstance(value, enum.Enum):
            symbol = of_members.get(value) or _symbol(value, allowed)
            if symbol in allowed:
                of_members[value] = symbol
                return symbol
        raise Misfit(f"{show(value)} is not one of {listed[:SHOWN_CHARS]}")

    return lower


def _symbol(member: enum.Enum, allowed: frozenset[str]) -> str:
    """A member's value where the values of its class are the symbols, else its name."""
    by_value = all(isinstance(other.value, str) and other.value in allowed for other in type(member))
    return str(member.value) if by_value else member.name


def fixed(size: int) -> Lower:
    def lower(value: Any, depth: int) -> bytes:
        data = _bytes(value, depth)
        if len(data) != size:
            raise Misfit(f"{show(data)} is not {size} bytes long")
        return data

    return lower


def _null(value: Any, _depth: int) -> None:
    if value is not None:
        raise Misfit(f"{show(value)} is not null")


def _boolean(value: Any, _depth: int) -> bool:
    if value is True or value is False:
        return bool(value)
    raise Misfit(f"{show(value)} is not a bool")


def _int(value: Any, depth: int) -> int:
    if type(value) is int and -0x80000000 <= value <= 0x7FFFFFFF:
        return value
    return _other_int(value, depth, "int", 31)


def _long(value: Any, depth: int) -> int:
    if type(value) is int and -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return value
    return _other_int(value, depth, "long", 63)


def _other_int(value: Any, _depth: int, kind: str, bits: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Misfit(f"{show(value)} is not an {kind}" if kind == "int" else f"{show(value)} is not a {kind}")
    number = int(value)
    if not -(2**bits) <= number < 2**bits:
        raise Misfit(f"{show(number)} is out of range for {kind}: -2**{bits} to 2**{bits}-1")
    return number


def _double(value: Any, depth: int) -> float:
    return value if type(value) is float else _other_float(value, depth, "double")


def _float(value: Any, depth: int) -> float:
    number = value if type(value) is float else _other_float(value, depth, "float")
    if -_FLOAT_MAX <= number <= _FLOAT_MAX or number in (float("inf"), float("-inf")) or number != number:  # noqa: PLR0124
        return number
    raise Misfit(f"{show(number)} is out of range for float; a double holds it")


def _other_float(value: Any, _depth: int, kind: str) -> float:
    if isinstance(value, float):
        return float(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Misfit(f"{show(value)} is not a {kind}")
    if abs(value) > _EXACT_FLOAT[kind]:
        raise Misfit(f"{show(value)} cannot be a {kind} without loss")
    return float(value)


def string(value: Any, _depth: int) -> str:
    if not isinstance(value, str):
        raise Misfit(f"{show(value)} is not a str")
    text = value if type(value) is str else str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Misfit(f"{show(text)} has a lone surrogate at {error.start}, which is not text") from None
    return text


def _bytes(value: Any, _depth: int) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise Misfit(f"{show(value)} is not bytes")


PRIMITIVES: dict[str, Lower] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "float": _float,
    "double": _double,
    "string": string,
    "bytes": _bytes,
}


def logical(node: dict[str, Any], name: str) -> Lower:
    if name == "decimal":
        return _decimal(node)
    return {
        "uuid": _uuid,
        "date": _date,
        "time-millis": _time(1000),
        "time-micros": _time(1),
        "timestamp-millis": _timestamp(1000),
        "timestamp-micros": _timestamp(1),
        "local-timestamp-millis": _local_timestamp(1000),
        "local-timestamp-micros": _local_timestamp(1),
    }[name]


def _decimal(node: dict[str, Any]) -> Lower:
    precision, scale = decimal_shape(node)
    size = node.get("size") if node["type"] == "fixed" else None
    exponent = Decimal((0, (1,), -scale))
    # The traps say what does not fit: Inexact, a digit beyond the scale; InvalidOperation, one beyond the precision.
    context = decimal.Context(prec=precision, traps=[decimal.Inexact, decimal.InvalidOperation])

    def lower(value: Any, _depth: int) -> bytes:
        if not isinstance(value, Decimal):
            raise Misfit(f"{show(value)} is not a Decimal")
        try:
            unscaled = int(value.quantize(exponent, context=context).scaleb(scale, context=context))
        except (decimal.Inexact, decimal.InvalidOperation, ValueError, OverflowError):
            raise Misfit(f"{show(value)} does not fit decimal({precision}, {scale})") from None
        magnitude = unscaled if unscaled >= 0 else ~unscaled
        return unscaled.to_bytes(size or magnitude.bit_length() // 8 + 1, "big", signed=True)

    return lower


def _uuid(value: Any, _depth: int) -> str:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        with suppress(ValueError):
            text = str(UUID(value))
            if text == value.lower():
                return text
    raise Misfit(f"{show(value)} is not a UUID")


def _date(value: Any, _depth: int) -> int:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise Misfit(f"{show(value)} is not a date")
    return value.toordinal() - EPOCH_DAY


def _time(unit_us: int) -> Lower:
    def lower(value: Any, _depth: int) -> int:
        if not isinstance(value, time) or value.tzinfo is not None:
            raise Misfit(f"{show(value)} is not a time of day without a zone")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return _in_units(seconds * 1_000_000 + value.microsecond, unit_us)

    return lower


def _timestamp(unit_us: int) -> Lower:
    low, high = RANGES["timestamp-micros"]

    def lower(value: Any, _depth: int) -> int:
        if not isinstance(value, datetime):
            raise Misfit(f"{show(value)} is not a datetime")
        if value.utcoffset() is None:
            raise Misfit("the datetime has no time zone; use datetime.now(UTC) or value.replace(tzinfo=…)")
        span = value - EPOCH
        micros = span.days * DAY_US + span.seconds * 1_000_000 + span.microseconds
        # The first and last hours of the calendar in one zone are outside it in another.
        if not low <= micros <= high:
            raise Misfit("the datetime is outside the years 1 to 9999 in UTC")
        return _in_units(micros, unit_us)

    return lower


def _local_timestamp(unit_us: int) -> Lower:
    def lower(value: Any, _depth: int) -> int:
        if not isinstance(value, datetime) or value.tzinfo is not None:
            raise Misfit(f"{show(value)} is not a datetime without a zone")
        span = value - LOCAL_EPOCH
        return _in_units(span.days * DAY_US + span.seconds * 1_000_000 + span.microseconds, unit_us)

    return lower


def _in_units(micros: int, unit_us: int) -> int:
    units, rest = divmod(micros, unit_us)
    if rest:
        raise Misfit("the value has microseconds, which this type would cut off; round it to milliseconds first")
    return units
