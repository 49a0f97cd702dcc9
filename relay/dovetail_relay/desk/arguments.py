"""What a command asks for, looked at before anything is done: its row may have been written by hand.

A command that makes no sense fails by name. Taken as it is it would end the relay, and the next one, and the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dovetail_relay.source.commands import Kind

_TEXTS: Final = ("id", "key", "type", "class", "since", "until", "topic")
_MOST: Final = (1 << 63) - 1
# Events a second; NaN is not below it either.
_FASTEST: Final = 1_000_000_000


def problem(kind: Kind, arguments: object) -> str | None:
    """What is wrong with them, in one line that repeats none of their values; None where nothing is."""
    if not isinstance(arguments, Mapping):
        return "the arguments are no JSON object"
    for name in _TEXTS:
        value = arguments.get(name)
        if value is not None and not (isinstance(value, str) and "\0" not in value and _reads(name, value)):
            return f"argument {name!r} is not {_WANTED.get(name, 'a text')}"
    rate = arguments.get("rate")
    if rate is not None and not (_is_number(rate) and 0 < rate <= _FASTEST):
        return f"argument 'rate' is not a number above 0 and up to {_FASTEST}"
    # A discard names its events, and need not say up to where.
    if kind in {"release", "discard"} and not _is_seq(arguments.get("upto", 0 if kind == "discard" else None)):
        return "argument 'upto' is not the seq of a parked row"
    return None


def _is_seq(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads(name: str, value: str) -> bool:
    reader = _READERS.get(name)
    try:
        return reader is None or reader(value) is not None
    except ValueError:
        return False


def _uuid(text: str) -> object:
    return UUID(text) if _PLAIN_UUID.fullmatch(text) else None


def _time(text: str) -> object:
    return datetime.fromisoformat(text) if _PLAIN_TIME.fullmatch(text) else None


# Python reads more forms than PostgreSQL does: only what both read the same way.
_PLAIN_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_PLAIN_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-5])(:[0-5]\d)?)?)?", re.ASCII
)
_READERS: Final[Mapping[str, Callable[[str], object]]] = {"id": _uuid, "since": _time, "until": _time}
_WANTED: Final = {
    "id": "a UUID",
    "since": "a time such as 2026-01-31T12:00Z",
    "until": "a time such as 2026-01-31T12:00Z",
}
