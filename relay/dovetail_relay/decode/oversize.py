"""Frames that are too large: what is kept of one, so that its row can be named without being carried. Pure.

A row of half a gigabyte must not be copied, cut into columns and joined again only to be refused in the end. Of a
frame beyond `outbox.max_row_bytes` a small one is made, under a tag that pgoutput does not use: how large it was, and
the same message with every long value emptied. So it counts as a row like any other, and its id, type and key are
read by the reader that reads all rows.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Final
from uuid import UUID

from dovetail_relay.decode.message import MESSAGE
from dovetail_relay.decode.pgoutput import BODY, INSERT, MalformedMessage, Row
from dovetail_relay.errors import StuckMessage
from dovetail_schemas.envelope import Envelope

TAG: Final = ord("x")
# Stands where a row says how its payload is encoded.
NOT_TAKEN_IN: Final = b"too_large"
_PAYLOAD: Final = 4
_ENCODING: Final = 6
# Longer than any id, type or key that can be published.
KEPT_BYTES: Final = 4096

_SIZE: Final = Struct("!Q")
_LENGTH: Final = Struct("!I")
_COLUMN: Final = Struct("!BI")
_INSERT_HEAD: Final = BODY + 8
_MESSAGE_HEAD: Final = BODY + 10
_WITHOUT_VALUE: Final = frozenset((ord("n"), ord("u")))
_UUID_BYTES: Final = 16
# Version and id, and what comes behind them.
_ENVELOPE_HEAD: Final = 1 + _UUID_BYTES
_ENVELOPE_FIELDS: Final = len(Envelope._fields) - 1


def shortened(frame: memoryview) -> bytes:
    """The small frame that stands for a large one. What is neither a row nor a logical message comes back whole.

    Raises MalformedMessage. `frame` is only looked at where it must be: nothing of its size is allocated.
    """
    tag = frame[BODY]
    try:
        if tag == INSERT:
            kept = _insert(frame)
        elif tag == MESSAGE:
            kept = _message(frame)
        else:
            return bytes(frame)
    except (struct_error, IndexError, ValueError) as error:
        raise MalformedMessage(f"a message of {len(frame)} bytes ends early") from error
    return b"".join((frame[:BODY], bytes((TAG,)), _SIZE.pack(len(frame)), *kept))


def opened(frame: bytes) -> tuple[int, bytes]:
    """How large the frame was, and what is kept of it, in its own form again."""
    at = BODY + 1
    (size,) = _SIZE.unpack_from(frame, at)
    return size, frame[:BODY] + frame[at + _SIZE.size :]


def refusal(row: Row, size: int, limit: int) -> StuckMessage:
    """Why a row of `size` bytes does not go out, under its id."""
    raw = row[0]
    return StuckMessage(
        f"the row has {size} bytes, more than outbox.max_row_bytes, {limit}; publish a reference to the large "
        "part, or raise the limits from end to end",
        event_id=str(UUID(bytes=raw)) if len(raw) == _UUID_BYTES else "without an id",
        reason="too_large",
    )


def without_payload(row: Row) -> Row:
    """The row as it is parked: what it carried was never taken in, and must never be taken for an empty payload."""
    kept = list(row)
    kept[_PAYLOAD], kept[_ENCODING] = None, NOT_TAKEN_IN
    return kept


def _insert(frame: memoryview) -> list[memoryview | bytes]:
    at = _INSERT_HEAD
    kept: list[memoryview | bytes] = [frame[BODY:at]]
    for _ in range(int.from_bytes(frame[at - 2 : at], "big")):
        begin = at
        if frame[at] in _WITHOUT_VALUE:
            at += 1
            kept.append(frame[begin:at])
            continue
        kind, length = _COLUMN.unpack_from(frame, at)
        at += _COLUMN.size + length
        kept.append(frame[begin:at] if length <= KEPT_BYTES else _COLUMN.pack(kind, 0))
    if at != len(frame):
        raise ValueError
    return kept


def _message(frame: memoryview) -> list[memoryview | bytes]:
    prefix = bytes(frame[_MESSAGE_HEAD : _MESSAGE_HEAD + KEPT_BYTES])
    end = prefix.find(0) + 1
    if not end:
        # Its prefix alone is long: not ours, whatever it is.
        return [frame[BODY:_MESSAGE_HEAD], b"?\0", bytes(_LENGTH.size)]
    content = _envelope(frame[_MESSAGE_HEAD + end + _LENGTH.size :])
    return [frame[BODY:_MESSAGE_HEAD], prefix[:end], _LENGTH.pack(len(content)), content]


def _envelope(content: memoryview) -> bytes:
    """An envelope with its long fields empty. Of what is none the beginning, which is none either."""
    kept = [content[:_ENVELOPE_HEAD]]
    at = _ENVELOPE_HEAD
    try:
        for _ in range(_ENVELOPE_FIELDS):
            begin = at
            (length,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size + length
            kept.append(content[begin:at] if length <= KEPT_BYTES else memoryview(bytes(_LENGTH.size)))
    except struct_error:
        return bytes(content[:KEPT_BYTES])
    return b"".join(kept) if at == len(content) else bytes(content[:KEPT_BYTES])
