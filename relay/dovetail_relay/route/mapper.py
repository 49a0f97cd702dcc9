"""One outbox row → one record. This is the hot path: written for speed, held to `headers.build` by a test.

What is shared by many rows is kept: topic and value mode per aggregate type, the `type` header per type, the text of
the current second, the last row's own headers (the rows of one transaction carry one trace context). What is left is a
few look-ups and concatenations of bytes.
"""

from __future__ import annotations

from binascii import hexlify
from typing import Final, Protocol

from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import Record
from dovetail_relay.route.headers import (
    JSONB_EMPTY,
    THOUSANDS,
    THOUSANDS_Z,
    UUID_PIECES,
    own_headers,
    second_text,
    uuid_text,
)
from dovetail_relay.route.router import Router, Target
from dovetail_schemas.headers import ID, POSITION, TIME, TYPE

# The same as `nouns.OutboxRow`, column by column.
Row = tuple[bytes, str | bytes, bytes, str | bytes, bytes | None, bytes | None, bytes, bytes, int]

# Most transactions hold fewer rows than this; a table look-up is cheaper than formatting.
_INDEX_TEXT: Final = tuple(b"%d" % n for n in range(1000))
_INDEXES: Final = len(_INDEX_TEXT)
# Types come from rows, so what is kept of them is bounded.
_KEPT: Final = 4096
_record = tuple.__new__


class Values(Protocol):
    """What the mapper needs of an encoder.

    `prefixes` is live: schemas learned later appear in it. `value` does what a concatenation cannot: JSON rows, rows
    without a fingerprint, unknown fingerprints.
    """

    prefixes: dict[bytes, bytes]

    def value(
        self, payload: bytes | None, fingerprint: bytes | None, encoding: bytes, event_id: str
    ) -> bytes | None: ...


class Mapper:
    """Rows → records, for the relay's loop alone (not thread-safe).

    A call that raises leaves nothing behind: the same row may be given again, for example after an unknown schema was
    loaded.
    """

    __slots__ = (
        "_extra",
        "_extra_of",
        "_prefixes",
        "_router",
        "_second",
        "_second_text",
        "_targets",
        "_types",
        "_value",
    )

    def __init__(self, router: Router, values: Values) -> None:
        self._router = router
        self._prefixes = values.prefixes
        self._value = values.value
        self._targets: dict[str | bytes, tuple[str, bool]] = {}
        self._types: dict[str | bytes, tuple[str, bytes]] = {}
        self._second = 0
        self._second_text = second_text(0)
        self._extra_of = JSONB_EMPTY
        self._extra: list[tuple[str, bytes]] = []

    def record(self, row: Row, position_prefix: bytes, index: int) -> Record:
        """The record for `row`, the `index`-th decoded row of its transaction (`headers.position_prefix`).

        Raises StuckMessage for a row that can never go out as it is, and whatever the encoder raises for a schema that
        it does not know.
        """
        row_id, aggregatetype, key, type_, payload, fingerprint, encoding, jsonb, created_at = row
        try:
            topic, framed = self._targets[aggregatetype]
        except KeyError:
            topic, framed = self._learn_target(aggregatetype, row_id)

        if not framed:
            value = payload
        else:
            try:
                if encoding != b"avro":
                    value = self._value(payload, fingerprint, encoding, uuid_text(row_id).decode())
                else:
                    value = self._prefixes[fingerprint] + payload  # type: ignore[index,operator]
            except (KeyError, TypeError):
                value = self._value(payload, fingerprint, encoding, uuid_text(row_id).decode())

        second, micros = divmod(created_at, 1_000_000)
        if second != self._second:
            self._tick(second, row_id)
        headers: list[tuple[str, str | bytes | None]] = [
            (ID, b"".join(UUID_PIECES(hexlify(row_id, b"-", 2)))),
            self._types.get(type_) or self._learn_type(type_),
            (TIME, self._second_text + THOUSANDS[micros // 1000] + THOUSANDS_Z[micros % 1000]),
            (POSITION, position_prefix + (_INDEX_TEXT[index] if index < _INDEXES else b"%d" % index)),
        ]
        if jsonb != JSONB_EMPTY:
            headers += self._own(jsonb, row_id)
        # Not `Record(…)`: its constructor costs more than the tuple itself.
        return _record(Record, (topic, value, key, headers))

    def target(self, aggregatetype: str | bytes, event_id: str = "") -> Target:
        """The router's answer, for an aggregate type as a row carries it."""
        return self._router.target(_text(aggregatetype), event_id=event_id)

    def _learn_target(self, aggregatetype: str | bytes, row_id: bytes) -> tuple[str, bool]:
        target = self.target(aggregatetype, uuid_text(row_id).decode())
        if len(self._targets) >= _KEPT:
            self._targets.clear()
        learned = self._targets[aggregatetype] = (target.topic, target.value == "avro")
        return learned

    def _learn_type(self, type_: str | bytes) -> tuple[str, bytes]:
        if len(self._types) >= _KEPT:
            self._types.clear()
        learned = self._types[type_] = (TYPE, type_.encode() if isinstance(type_, str) else type_)
        return learned

    def _tick(self, second: int, row_id: bytes) -> None:
        try:
            self._second_text = second_text(second)
        except OverflowError:
            raise StuckMessage(
                "created_at lies outside the years 1 to 9999", event_id=uuid_text(row_id).decode(), reason="time"
            ) from None
        self._second = second

    def _own(self, jsonb: bytes, row_id: bytes) -> list[tuple[str, bytes]]:
        if jsonb != self._extra_of:
            self._extra = own_headers(jsonb, uuid_text(row_id).decode())
            self._extra_of = jsonb
        return self._extra


def _text(name: str | bytes) -> str:
    # What is not UTF-8 (a database in SQL_ASCII can hold it) becomes a character that no topic name may have.
    return name if isinstance(name, str) else name.decode(errors="replace")
