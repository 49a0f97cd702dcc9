"""The prefix of a Kafka value: 0x00 and a big-endian schema id, the form that every Confluent client reads."""

from struct import Struct

from dovetail_schemas.errors import BadFraming

_PREFIX = Struct(">bI")
FRAME_BYTES = _PREFIX.size
_MAGIC = 0


def frame(schema_id: int, body: bytes) -> bytes:
    """The value to produce: prefix and Avro body."""
    return _PREFIX.pack(_MAGIC, schema_id) + body


def unframe(value: bytes | bytearray | memoryview | None) -> tuple[int, bytes]:
    """Schema id and Avro body of a consumed value, or `BadFraming`."""
    if value is None:
        raise BadFraming("the value is null (a tombstone), not an event")
    if len(value) < FRAME_BYTES:
        raise BadFraming(f"the value has {len(value)} bytes; a frame has at least {FRAME_BYTES}")
    magic, schema_id = _PREFIX.unpack_from(value)
    if magic != _MAGIC:
        raise BadFraming(f"the value begins with 0x{magic & 0xFF:02x}; a frame begins with 0x00 and a schema id")
    return schema_id, bytes(value[FRAME_BYTES:])
