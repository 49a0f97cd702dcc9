"""What both sides must do identically with Avro: one spelling of a schema, strict bytes out, bounded bytes in.

`normalise` gives a schema its one spelling, `fingerprint` and `schema_id` name it, a `Codec` turns values into bytes
and back, `frame` and `unframe` put the id in front. Importing this package does not import fastavro; making the
first bytes does.
"""

from dovetail_schemas.avro.codec import Codec, plain_default
from dovetail_schemas.avro.framing import FRAME_BYTES, frame, unframe
from dovetail_schemas.avro.reading import DEFAULT_LIMITS, Limits
from dovetail_schemas.avro.schema import fingerprint, normalise, schema_id
from dovetail_schemas.errors import BadFraming, DecodeError, SchemaInvalid, SchemaMismatch, SchemaWarning

__all__ = [
    "DEFAULT_LIMITS",
    "FRAME_BYTES",
    "BadFraming",
    "Codec",
    "DecodeError",
    "Limits",
    "SchemaInvalid",
    "SchemaMismatch",
    "SchemaWarning",
    "fingerprint",
    "frame",
    "normalise",
    "plain_default",
    "schema_id",
    "unframe",
]
