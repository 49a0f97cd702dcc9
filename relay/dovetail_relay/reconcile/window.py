"""Which time is compared: `--since` and `--until`, by the database's clock. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from dovetail_relay.retention import DAY

_AGO: Final = re.compile(r"(\d{1,6})\s*(s|m|h|d)", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MINUTE: Final = 60

# A moment, or how long ago.
Moment = datetime | timedelta


class NoWindow(Exception):
    """There is nothing between the two ends."""


class Window(NamedTuple):
    """Seconds since 1970, whole minutes. `asked` is the beginning that was wanted, where rows are not kept so long."""

    start: int
    end: int
    asked: int | None = None


def moment(text: str) -> Moment:
    """`2026-01-31`, `2026-01-31T12:00Z` (without a zone it is UTC), or `90m`, `6h`, `3d` ago. Raises ValueError."""
    if ago := _AGO.fullmatch(text.strip()):
        return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    found = datetime.fromisoformat(text.strip())
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def window(since: Moment | None, until: Moment | None, *, now: float, retention_days: int) -> Window:
    """The minutes to compare, from the first that is surely kept. Raises NoWindow where none is left."""
    # A transaction over midnight writes into the leaf of the day on which it began: one day less is surely there.
    kept = (int(now) // DAY - retention_days + 1) * DAY
    start = kept if since is None else int(_seconds(since, now)) // _MINUTE * _MINUTE
    # The minute that is not over is looked at too.
    end = math.ceil((now if until is None else min(now, _seconds(until, now))) / _MINUTE) * _MINUTE
    found = Window(max(start, kept), end, start if start < kept else None)
    if found.start >= found.end:
        raise NoWindow("there is no minute between the two")
    return found


def _seconds(when: Moment, now: float) -> float:
    return now - when.total_seconds() if isinstance(when, timedelta) else when.timestamp()
