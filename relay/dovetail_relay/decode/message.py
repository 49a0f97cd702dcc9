"""Logical messages of pgoutput → rows: the way in that has no table. Pure.

Only a transactional message is an event: any other is sent even when its transaction rolls back. Of those only the
ones with our prefix count; what our prefix carries is a row like any other, or a stuck message, never a crash, because
anyone who may connect can write one.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple
from uuid import UUID

from dovetail_relay.decode.pgoutput import BODY, MalformedMessage, Moment, Row
from dovetail_relay.errors import StuckMessage
from dovetail_schemas import envelope
from dovetail_schemas.errors import EnvelopeInvalid

MESSAGE: Final = ord("M")

_HEAD: Final = Struct("!xBQ")
_LENGTH: Final = Struct("!I")
_TRANSACTIONAL: Final = 1
_JSONB: Final = b"\x01"
_EMPTY: Final = b"\x01{}"


class MessageRow(list[Any]):
    """The row of an event that stands in no table."""

    __slots__ = ()


class Message(NamedTuple):
    """`content` is whatever its writer put there."""

    transactional: bool
    prefix: str
    content: bytes

    @property
    def is_padding(self) -> bool:
        """Whether it stands behind an event only to keep its order."""
        return self.prefix == envelope.PADDING

    @property
    def is_event(self) -> bool:
        """Whether it counts as a row of its transaction."""
        return self.transactional and self.prefix == envelope.PREFIX


def message(data: bytes) -> Message:
    """A Message of pgoutput, behind the replication header. Raises MalformedMessage."""
    try:
        flags, _lsn = _HEAD.unpack_from(data)
        end = data.index(0, _HEAD.size)
        # A database in SQL_ASCII may hold anything; what is not UTF-8 is not our prefix.
        prefix = data[_HEAD.size : end].decode(errors="replace")
        (length,) = _LENGTH.unpack_from(data, end + 1)
    except (struct_error, ValueError) as error:
        raise MalformedMessage(f"Message of {len(data)} bytes ends early") from error
    content = data[end + 1 + _LENGTH.size :]
    if len(content) != length:
        raise MalformedMessage(f"Message says it has {length} bytes and has {len(content)}")
    return Message(bool(flags & _TRANSACTIONAL), prefix, content)


def message_reader(moment: Moment) -> Callable[[bytes], Row]:
    """A function from an event's frame to its row, dated by its commit. It raises StuckMessage (`envelope`)."""

    def read(frame: bytes) -> Row:
        content = message(frame[BODY:]).content
        try:
            event = envelope.unpack(content)
        except EnvelopeInvalid as error:
            raise StuckMessage(str(error), event_id=_id_text(content), reason="envelope") from None
        return MessageRow(
            (
                event.id,
                event.aggregatetype,
                event.aggregateid,
                event.type,
                event.payload,
                event.schema_fingerprint or None,
                event.encoding,
                _JSONB + event.headers if event.headers else _EMPTY,
                moment.commit_us,
            )
        )

    return read


def _id_text(content: bytes) -> str:
    raw = content[1:17]
    return str(UUID(bytes=raw)) if len(raw) == 16 else "without an id"
