"""The Confluent wire frame: a zero byte, the schema's id in four bytes, the Avro body as the row carries it.

The body was encoded inside the business transaction, under the schema whose fingerprint the row carries; it is never
decoded or encoded again here, so a later change of the schema cannot alter an event. Only rows that a client without
our SDK wrote as JSON are encoded here, by the schema that the row was pinned to when it was inserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dovetail_relay.encode.from_json import FromJson, Unfit
from dovetail_relay.errors import StuckMessage
from dovetail_schemas.errors import SchemaInvalid

_MAGIC: Final = b"\0"
_LARGEST_ID: Final = 0xFFFFFFFF


class UnknownFingerprint(LookupError):
    """A row carries a schema that this encoder has not learned yet: load it, `learn` it, and give the row again.

    It never leaves the relay: a schema that the database does not know either makes the message stuck (`stuck()`).
    """

    def __init__(self, fingerprint: bytes, event_id: str = "") -> None:
        super().__init__(fingerprint.hex())
        self.fingerprint = fingerprint
        self.event_id = event_id

    def stuck(self) -> StuckMessage:
        """What it becomes when nobody knows the schema."""
        return StuckMessage(
            f"schema {self.fingerprint.hex()} is in no registry; its service registers it: dovetail.register(conn, …) "
            "at start-up",
            event_id=self.event_id,
            reason="schema",
        )


def prefix(schema_id: int) -> bytes:
    """The five bytes before the body. Raises ValueError for an id that does not fit into four bytes."""
    if not 0 <= schema_id <= _LARGEST_ID:
        raise ValueError(f"schema id {schema_id} does not fit into 4 bytes")
    return _MAGIC + schema_id.to_bytes(4, "big")


class Encoder:
    """Fingerprint → five-byte prefix, and the frame made with it. Belongs to the relay's loop (not thread-safe).

    `prefixes` may be read directly on the hot path; only `learn` writes it. Rows in JSON need the schema's definition
    as well: where it was not given with the id, they are stuck.
    """

    __slots__ = ("_definitions", "_from_json", "prefixes")

    def __init__(self, known: Mapping[bytes, bytes] | None = None) -> None:
        self.prefixes: dict[bytes, bytes] = dict(known or {})
        self._definitions: dict[bytes, str] = {}
        self._from_json: dict[bytes, FromJson] = {}

    def learn(self, fingerprint: bytes, schema_id: int, definition: str | None = None) -> None:
        """Remember a schema's id, and its text for rows in JSON. A later id for one fingerprint replaces the first."""
        self.prefixes[fingerprint] = prefix(schema_id)
        if definition is not None:
            self._definitions[fingerprint] = definition

    def frame(self, fingerprint: bytes, payload: bytes) -> bytes:
        """Prefix and body. Raises UnknownFingerprint."""
        try:
            return self.prefixes[fingerprint] + payload
        except KeyError:
            raise UnknownFingerprint(fingerprint) from None

    def value(self, payload: bytes | None, fingerprint: bytes | None, encoding: bytes, event_id: str) -> bytes | None:
        """The value of any row on an `avro` route. An absent payload stays absent: a tombstone.

        Raises UnknownFingerprint, or StuckMessage: `schema` for a row without a fingerprint, `encoding` for one that is
        neither Avro nor JSON or whose JSON does not fit its schema.
        """
        if payload is None:
            return None
        if fingerprint is None:
            raise StuckMessage(
                'the row names no schema; publish it with one, or route its aggregate type with value = "passthrough"',
                event_id=event_id,
                reason="schema",
            )
        known = self.prefixes.get(fingerprint)
        if known is None:
            raise UnknownFingerprint(fingerprint, event_id)
        if encoding == b"avro":
            return known + payload
        if encoding == b"json":
            return known + self._encoded(fingerprint, payload, event_id)
        raise StuckMessage("the row's encoding is neither avro nor json", event_id=event_id, reason="encoding")

    def _encoded(self, fingerprint: bytes, payload: bytes, event_id: str) -> bytes:
        try:
            return self._converter(fingerprint, event_id).encode(payload)
        except Unfit as unfit:
            what = f"the row's JSON does not fit schema {fingerprint.hex()}: {unfit}"
        except SchemaInvalid as invalid:
            what = f"schema {fingerprint.hex()} cannot be written from JSON, publish with the SDK: {invalid}"
        raise StuckMessage(what, event_id=event_id, reason="encoding") from None

    def _converter(self, fingerprint: bytes, event_id: str) -> FromJson:
        found = self._from_json.get(fingerprint)
        if found is None:
            definition = self._definitions.get(fingerprint)
            if definition is None:
                raise StuckMessage(
                    f"the relay holds no text of schema {fingerprint.hex()}", event_id=event_id, reason="schema"
                )
            found = self._from_json[fingerprint] = FromJson(definition)
        return found
