"""The headers that readers of other systems look for, added to our own four by a mapper around the usual one.

It is made only where `[outbox] headers` asks for it, so what everybody uses pays nothing for it.

CloudEvents 1.0 in Kafka's binary mode: `ce_specversion, ce_id, ce_type, ce_source, ce_time, ce_subject`, and
`content-type`, which says what the value is. Debezium's event router: `id`, which is ours too, and `eventType`, where
its users put the type (`table.fields.additional.placement = type:header:eventType`).
"""

from __future__ import annotations

from typing import Final

from dovetail_relay.nouns import Record
from dovetail_relay.route.mapper import Mapper, Row, Values
from dovetail_relay.route.router import Router
from dovetail_schemas.headers import CONTENT_TYPE

AVRO: Final = b"application/avro"
JSON: Final = b"application/json"
BYTES: Final = b"application/octet-stream"

_ENCODING: Final = 6
_FINGERPRINT: Final = 5


class CloudEvents(Mapper):
    """Adds CloudEvents' attributes. `source` is `ce_source`, a URI reference that names this relay."""

    __slots__ = ("_source",)

    def __init__(self, router: Router, values: Values, source: str) -> None:
        super().__init__(router, values)
        self._source = source.encode()

    def record(self, row: Row, position_prefix: bytes, index: int) -> Record:
        """As `Mapper.record`. A content type among the row's own headers stays the only one."""
        made = super().record(row, position_prefix, index)
        (_, event_id), (_, type_), (_, time) = made.headers[:3]
        if made.value is not None and not any(name.lower() == CONTENT_TYPE for name, _ in made.headers[4:]):
            made.headers.append((CONTENT_TYPE, self._content_type(row)))
        made.headers.extend(
            (
                ("ce_specversion", b"1.0"),
                ("ce_id", event_id),
                ("ce_type", type_),
                ("ce_source", self._source),
                ("ce_time", time),
                ("ce_subject", made.key),
            )
        )
        return made

    def _content_type(self, row: Row) -> bytes:
        if self.target(row[1]).value == "avro":
            return AVRO
        if row[_ENCODING] == b"json":
            return JSON
        # Passed through as it came: Avro only where the row says by which schema.
        return BYTES if row[_FINGERPRINT] is None else AVRO


class Debezium(Mapper):
    """Adds `eventType`."""

    __slots__ = ()

    def record(self, row: Row, position_prefix: bytes, index: int) -> Record:
        """As `Mapper.record`."""
        made = super().record(row, position_prefix, index)
        made.headers.append(("eventType", made.headers[1][1]))
        return made


class Both(CloudEvents, Debezium):
    """All of them."""

    __slots__ = ()


def mapper_for(headers: tuple[str, ...], source: str, router: Router, values: Values) -> Mapper:
    """The mapper that adds what `[outbox] headers` names; the plain one where that is ours alone."""
    if "cloudevents" in headers:
        return (Both if "debezium" in headers else CloudEvents)(router, values, source)
    return (Debezium if "debezium" in headers else Mapper)(router, values)
