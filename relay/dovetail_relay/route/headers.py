"""A record's headers: the four that every event has, then the row's own.

`id`, `type`, `time` and `position` are the relay's word and come first, so a row cannot shadow them: names that would
are refused, and the message is stuck rather than published with a header less. `mapper.py` writes the first four by
hand on the hot path; `build` is the same thing said plainly, and a test holds the two together.
"""

from __future__ import annotations

import json
from binascii import hexlify
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Final

from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import Lsn, Place
from dovetail_schemas.headers import ID, POSITION, RESERVED, RESERVED_PREFIXES, TIME, TYPE, is_reserved

JSONB_EMPTY: Final = b"\x01{}"
_JSONB_VERSION: Final = b"\x01"
_raw_decode: Final = json.JSONDecoder().raw_decode

_MICROSECONDS: Final = 1_000_000
_PG_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
# `hexlify(id, "-", 2)` gives 8 groups of 4 digits; these are the pieces that stay when the dashes that a UUID's text
# does not have (after 4, 29 and 34 characters) are left out. Twice as fast as slicing and formatting.
UUID_PIECES: Final = Struct("4sx24sx4sx4s").unpack

# The digits of the microseconds, three at a time.
THOUSANDS: Final = tuple(b"%03d" % n for n in range(1000))
THOUSANDS_Z: Final = tuple(b"%03dZ" % n for n in range(1000))


def uuid_text(raw: bytes) -> bytes:
    """16 bytes → `01890a5d-ac96-774b-bcce-b302099a8057`."""
    return b"".join(UUID_PIECES(hexlify(raw, b"-", 2)))


def second_text(second: int) -> bytes:
    """Seconds since 2000-01-01 UTC → `2026-01-01T00:00:00.`, to which the microseconds are appended.

    Raises OverflowError outside the years 1 to 9999 (PostgreSQL knows more, and infinity; RFC 3339 does not).
    """
    moment = _PG_EPOCH + timedelta(seconds=second)
    # strftime does not pad years below 1000 on every platform.
    return f"{moment:%Y}".zfill(4).encode() + f"{moment:-%m-%dT%H:%M:%S.}".encode()


def time_text(created_at: int) -> bytes:
    """Microseconds since 2000-01-01 UTC → RFC 3339 with microseconds and Z. Raises OverflowError as `second_text`."""
    second, micros = divmod(created_at, _MICROSECONDS)
    return second_text(second) + THOUSANDS[micros // 1000] + THOUSANDS_Z[micros % 1000]


def position_prefix(epoch: int, commit_lsn: Lsn) -> bytes:
    """The part of `position` that all rows of one transaction share: `3/0000000016B37428/`."""
    return b"%d/%016X/" % (epoch, commit_lsn)


def place_of(headers: Sequence[tuple[str, str | bytes | None]]) -> Place:
    """Where the row of a record stands, from its `position`, which is the fourth header of each record."""
    _, position = headers[3]
    _epoch, commit_lsn, index = (position if isinstance(position, str) else (position or b"").decode()).split("/")
    return Place(Lsn(int(commit_lsn, 16)), int(index))


def own_headers(jsonb: bytes, event_id: str) -> list[tuple[str, bytes]]:
    """The row's own headers, in the order of the JSON object. Raises StuckMessage (`headers`) for `event_id`.

    The message names the rule that was broken and the size, never a name or a value: both come from the row.
    """
    if jsonb[:1] != _JSONB_VERSION:
        raise _stuck("are not in jsonb's binary format 1", event_id)
    try:
        text = jsonb[1:].decode()
        # Half the cost of json.loads, which looks for an encoding and for white space that jsonb never writes.
        found, end = _raw_decode(text)
    except (ValueError, RecursionError):
        raise _stuck("are not JSON", event_id) from None
    if end != len(text) or not isinstance(found, dict):
        raise _stuck("are not a JSON object of strings", event_id)
    headers = []
    for name, value in found.items():
        problem = _name_problem(name)
        if problem is None and not isinstance(value, str):
            problem = "hold a value that is not a string"
        if problem is not None:
            raise _stuck(problem, event_id)
        try:
            headers.append((name, value.encode()))
        except UnicodeEncodeError:
            raise _stuck("are not valid Unicode", event_id) from None
    return headers


def build(
    id_text: bytes, type_: bytes, time: bytes, position: bytes, jsonb: bytes = JSONB_EMPTY
) -> list[tuple[str, bytes]]:
    """All headers of one record. Raises StuckMessage (`headers`) when the row's own are not to be published."""
    headers = [(ID, id_text), (TYPE, type_), (TIME, time), (POSITION, position)]
    if jsonb != JSONB_EMPTY:
        headers += own_headers(jsonb, id_text.decode())
    return headers


# A service uses a handful of names, one of them for each event.
@lru_cache(maxsize=256)
def _name_problem(name: str) -> str | None:
    if not name or is_reserved(name):
        return f"use an empty or a reserved name ({', '.join(sorted(RESERVED))}, {'*, '.join(RESERVED_PREFIXES)}*)"
    if "\0" in name:
        # librdkafka takes names as C strings: what follows the zero byte would silently be lost.
        return "hold a zero byte in a name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "are not valid Unicode"
    return None


def _stuck(what: str, event_id: str) -> StuckMessage:
    return StuckMessage(f"the row's headers {what}", event_id=event_id, reason="headers")
