"""An event inside a logical message (`pg_logical_emit_message`), for the way in that has no table.

Version 1, all lengths in four bytes, big-endian (what PostgreSQL's `int4send` writes):

    0x01 · id (16 bytes) · then seven fields, each its length and its bytes:
    aggregatetype · aggregateid · type · schema fingerprint (0 or 16 bytes) · encoding (avro, json) · headers · payload

Texts are UTF-8; headers are a JSON object of strings, empty for none. Nothing may follow. The prefix of the message is
`dovetail`, exactly. There is no time in it: an event that came this way carries the time of its commit.
"""

from struct import Struct
from typing import Final, NamedTuple

from dovetail_schemas.errors import EnvelopeInvalid

PREFIX: Final = "dovetail"
# Of the empty message that is written behind an event, see queries/sdk_outbox.sql.
PADDING: Final = "dovetail.pad"
VERSION: Final = 1
# A message lies whole in the memory of server and relay; Kafka takes a megabyte unless it is told otherwise.
MAX_BYTES: Final = 16 << 20

_LENGTH: Final = Struct("!I")
_HEAD_BYTES: Final = 17
_NIL: Final = bytes(16)
# The bounds that the columns of dovetail.outbox have: name, least and most bytes.
_FIELDS: Final = (
    ("aggregatetype", 1, 200),
    ("aggregateid", 1, 1024),
    ("type", 1, 255),
    ("schema_fingerprint", 0, 16),
    ("encoding", 1, 8),
    ("headers", 0, 65_536),
    ("payload", 0, MAX_BYTES),
)
_TEXTS: Final = 3
_ENCODINGS: Final = frozenset((b"avro", b"json"))


class Envelope(NamedTuple):
    """One event. `schema_fingerprint` is empty where the event has no schema, `headers` where it has none."""

    id: bytes
    aggregatetype: bytes
    aggregateid: bytes
    type: bytes
    schema_fingerprint: bytes
    encoding: bytes
    headers: bytes
    payload: bytes


def pack(event: Envelope) -> bytes:
    """The message's content. Raises EnvelopeInvalid for what `unpack` would refuse."""
    parts = [bytes((VERSION,)), event.id]
    for field in event[1:]:
        parts += (_LENGTH.pack(len(field)), field)
    content = b"".join(parts)
    unpack(content)
    return content


def unpack(content: bytes) -> Envelope:
    """The event in a message's content. Any bytes give an event or EnvelopeInvalid, which names a field, no value."""
    if len(content) > MAX_BYTES:
        raise EnvelopeInvalid(f"the envelope has {len(content)} bytes; at most {MAX_BYTES} are allowed")
    if content[:1] != bytes((VERSION,)):
        raise EnvelopeInvalid(f"the envelope does not begin with version {VERSION}")
    event_id = content[1:_HEAD_BYTES]
    if len(event_id) != len(_NIL) or event_id == _NIL:
        raise EnvelopeInvalid("the envelope's id is not 16 bytes, or is the nil UUID")
    at = _HEAD_BYTES
    found: list[bytes] = []
    for name, least, most in _FIELDS:
        if at + _LENGTH.size > len(content):
            raise EnvelopeInvalid(f"the envelope ends before {name}")
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if not least <= length <= most or at + length > len(content):
            raise EnvelopeInvalid(f"the envelope's {name} says it has {length} bytes; allowed are {least} to {most}")
        found.append(content[at : at + length])
        at += length
    if at != len(content):
        raise EnvelopeInvalid(f"the envelope has {len(content) - at} bytes after its payload")
    _check(found)
    return Envelope(event_id, *found)


def _check(fields: list[bytes]) -> None:
    for (name, _, _), field in zip(_FIELDS, fields[:_TEXTS], strict=False):
        try:
            text = field.decode()
        except UnicodeDecodeError:
            raise EnvelopeInvalid(f"the envelope's {name} is not UTF-8") from None
        if "\0" in text:
            raise EnvelopeInvalid(f"the envelope's {name} holds a zero byte")
    fingerprint, encoding = fields[_TEXTS], fields[_TEXTS + 1]
    if len(fingerprint) not in {0, 16}:
        raise EnvelopeInvalid("the envelope's schema_fingerprint has neither 0 nor 16 bytes")
    if encoding not in _ENCODINGS:
        raise EnvelopeInvalid("the envelope's encoding is neither avro nor json")
