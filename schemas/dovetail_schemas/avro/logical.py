"""The logical types Dovetail converts, what each rests on, and the ranges its values must keep."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeGuard

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a local timestamp has no zone by definition
EPOCH_DAY = date(1970, 1, 1).toordinal()
DAY_US = 86_400_000_000

BASES = {
    "date": {"int"},
    "time-millis": {"int"},
    "time-micros": {"long"},
    "timestamp-millis": {"long"},
    "timestamp-micros": {"long"},
    "local-timestamp-millis": {"long"},
    "local-timestamp-micros": {"long"},
    "decimal": {"bytes", "fixed"},
    "uuid": {"string"},
}

_MICROSECOND = timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND

# What Python's own types can hold, in the unit that is on the wire; both ends included.
RANGES = {
    "date": (date.min.toordinal() - EPOCH_DAY, date.max.toordinal() - EPOCH_DAY),
    "time-millis": (0, DAY_US // 1000 - 1),
    "time-micros": (0, DAY_US - 1),
    "timestamp-millis": (_FIRST_US // 1000, _LAST_US // 1000),
    "timestamp-micros": (_FIRST_US, _LAST_US),
    "local-timestamp-millis": (_FIRST_US // 1000, _LAST_US // 1000),
    "local-timestamp-micros": (_FIRST_US, _LAST_US),
}


def logical_type(node: Any) -> str | None:
    """The logical type of a checked node, when it is one that has an effect on its base type."""
    if not isinstance(node, dict):
        return None
    name = node.get("logicalType")
    return name if isinstance(name, str) and node["type"] in BASES.get(name, ()) else None


def logical_problem(source: dict[str, Any], kind: str) -> tuple[str | None, bool]:
    """What is wrong with a node's logical type, and whether the schema must be refused for it."""
    name = source.get("logicalType")
    if name is None:
        return None, False
    if not isinstance(name, str) or name not in BASES:
        return f"logicalType {str(name)[:80]!r} is not known; the value stays {kind}", False
    if kind not in BASES[name]:
        return f"logicalType {name} rests on {' or '.join(sorted(BASES[name]))}; on {kind} it has no effect", False
    return (_decimal_problem(source), True) if name == "decimal" else (None, False)


def decimal_shape(node: dict[str, Any]) -> tuple[int, int]:
    """Precision and scale of a checked decimal node."""
    return node["precision"], node.get("scale", 0)


def _decimal_problem(source: dict[str, Any]) -> str | None:
    precision, scale = source.get("precision"), source.get("scale", 0)
    if not (_is_count(precision, 1) and _is_count(scale, 0)):
        return "a decimal needs a 'precision' of at least 1 and a 'scale' of at least 0"
    if scale > precision:
        return f"the scale {scale} is greater than the precision {precision}"
    size = source.get("size")
    if isinstance(size, int) and 10**precision - 1 > 2 ** (8 * size - 1) - 1:
        return f"a precision of {precision} does not fit into {size} bytes"
    return None


def _is_count(value: object, least: int) -> TypeGuard[int]:
    # 1,000 digits: more than PostgreSQL's numeric is declared with, and small enough to compute with.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 1000
