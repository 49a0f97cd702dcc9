"""What a command asks for, looked at before anything is done: its row may have been written by hand.

A command that makes no sense fails by name. Taken as it is it would end the relay, and the next one, and the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dovetail_relay.source.commands import Kind

_TEXTS: Final = ("id", "key", "type", "class", "since", "until", "topic")
_MOST: Final = (1 << 63) - 1


def problem(kind: Kind, arguments: object) -> str | None:
    """What is wrong with them, in one line that repeats none of their values; None where nothing is."""
    if not isinstance(arguments, Mapping):
        return "the arguments are no JSON object"
    for name in _TEXTS:
        value = arguments.get(name)
        if value is not None and not (isinstance(value, str) and "\0" not in value and _reads(name, value)):
            return f"argument {name!r} is not {_WANTED.get(name, 'a text')}"
    rate = arguments.get("rate")
    if rate is not None and not (_is_number(rate) and math.isfinite(rate) and rate > 0):
        return "argument 'rate' is not a number above 0"
    upto: Any = arguments.get("upto")
    if kind != "replay" and not (isinstance(upto, int) and not isinstance(upto, bool) and 0 <= upto <= _MOST):
        return "argument 'upto' is not the seq of a parked row"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads(name: str, value: str) -> bool:
    reader = _READERS.get(name)
    try:
        return reader is None or reader(value) is not None
    except ValueError:
        return False


_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "id": UUID,
    "since": datetime.fromisoformat,
    "until": datetime.fromisoformat,
}
_WANTED: Final = {
    "id": "a UUID",
    "since": "a time such as 2026-01-31T12:00Z",
    "until": "a time such as 2026-01-31T12:00Z",
}
