"""From Kafka message to claim: every check that needs no server, and the delivery a handler sees."""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol
from uuid import UUID

from dovetail.errors import BadFraming, BadMessage, EventFromFuture, EventTooOld, SchemaUnknown
from dovetail.event import EventType
from dovetail.statement import Statement
from dovetail_schemas import headers as header_names
from dovetail_schemas.avro import DEFAULT_LIMITS, Codec, Limits, unframe
from dovetail_schemas.errors import PositionInvalid, TimeInvalid
from dovetail_schemas.position import Position
from dovetail_schemas.sql import queries

# The inbox is a ring of nine day-leaves: seven days kept, today, and the next one.
RING_DAYS = 9
WINDOW_DAYS = 7
AHEAD_DAYS = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_CONSUMER_BYTES = 200
# A header that is not ours and larger than this is somebody's mistake; it is dropped, not carried into memory twice.
_HEADER_BYTES = 32_768
_OURS = frozenset({header_names.ID, header_names.TYPE, header_names.TIME, header_names.POSITION})


class Message(Protocol):
    """A consumed Kafka record, as confluent_kafka.Message has it."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def headers(self) -> Any: ...
    def topic(self) -> str | None: ...
    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...


class Schemas(Protocol):
    """Where the codec for a schema id comes from. Thread-safe; keeps what it found.

    Raises `SchemaUnknown` where no retry will help, `RegistryUnavailable` where one may.
    """

    def codec(self, schema_id: int) -> Codec: ...


class Receiving:
    """What every driver's Inbox shares: the consumer's name, its types and schemas. Holds no connection.

    An event whose schema is that of one of `types` needs no registry; any other schema is asked of `schemas`. Events
    of a type in `types` are read through that type's schema, so that older and newer writers look alike.
    """

    def __init__(
        self,
        consumer: str,
        *,
        types: Iterable[Any] = (),
        schemas: Schemas | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(consumer, str) or not 1 <= len(consumer.encode()) <= _CONSUMER_BYTES or "\0" in consumer:
            raise ValueError(f"the consumer's name must have 1 to {_CONSUMER_BYTES} bytes: Inbox(consumer='shipping')")
        self.consumer = consumer
        self.limits = limits
        self._types = {kind.name: kind for kind in map(EventType.of, types)}
        self._codecs = {kind.codec.schema_id: kind.codec for kind in self._types.values()}
        self._schemas = schemas
        self._clock = clock

    def claim(self, message: Message) -> tuple["Delivery", Statement]:
        """The delivery, not yet known to be fresh, and the INSERT whose row count tells.

        Raises `BadMessage`, `EventTooOld` or `EventFromFuture`; then nothing may be inserted.
        """
        delivery = Delivery(message, self)
        age_us = int(self._clock() * 1_000_000) - delivery.time_us
        if age_us > WINDOW_DAYS * _DAY_US:
            raise EventTooOld(
                f"{delivery.where}: the event {delivery.id} is {age_us // _DAY_US} days old; duplicates are known for "
                f"{WINDOW_DAYS} days only, so it is not taken"
            )
        if age_us < -AHEAD_DAYS * _DAY_US:
            raise EventFromFuture(
                f"{delivery.where}: the event {delivery.id} is more than a day ahead of this machine's clock; compare "
                "the clocks of this machine and of the database that wrote it"
            )
        day = delivery.time_us // _DAY_US % RING_DAYS
        return delivery, Statement(queries["inbox_claim"], (self.consumer, delivery.id, day))

    def writer(self, schema_id: int, event: str) -> Codec:
        """The codec of the schema a value was written with; `event` is its type, for the error."""
        own = self._codecs.get(schema_id)
        if own is not None:
            return own
        if self._schemas is None:
            raise SchemaUnknown(
                f"a {event} was written with schema {schema_id}, which none of this inbox's types has; pass schemas=, "
                "for example dovetail.registry.HttpSchemas('http://relay:8642')"
            )
        return self._schemas.codec(schema_id)

    def is_at_hand(self, schema_id: int) -> bool:
        """Whether `writer` answers without asking anybody."""
        return self._schemas is None or schema_id in self._codecs

    def read(self, type_name: str, writer: Codec, body: bytes) -> Any:
        """The event: an instance of the type's class where it has one, else a dict."""
        kind = self._types.get(type_name)
        if kind is None:
            return writer.decode(body, self.limits)
        reader = None if kind.codec.fingerprint == writer.fingerprint else kind.codec
        datum = writer.decode(body, self.limits, reader=reader)
        return kind.shape.build(datum) if kind.shape is not None and kind.shape.build is not None else datum


class Delivery:
    """One received message: `id`, `type`, `key`, `time`, `position`, `headers`, and `event`, decoded when first read.

    `fresh` is False where this consumer took the event before.
    """

    def __init__(self, message: Message, receiving: Receiving) -> None:
        self.message = message
        self.fresh = False
        self._receiving = receiving
        self.headers = self._text_headers()
        self.id = self._id()
        self.type = self._header(header_names.TYPE)
        try:
            self.time_us = header_names.parse_time(self._header(header_names.TIME))
            position = self.headers.get(header_names.POSITION)
            self.position = None if position is None else Position.parse(position)
        except (PositionInvalid, TimeInvalid) as error:
            raise BadMessage(f"{self.where}: {error}") from None

    def __repr__(self) -> str:
        return f"<Delivery {self.type} {self.id} {self.where} {'fresh' if self.fresh else 'duplicate'}>"

    @property
    def where(self) -> str:
        """Topic, partition and offset, for messages and logs."""
        return f"{self.message.topic()}[{self.message.partition()}]@{self.message.offset()}"

    @property
    def key(self) -> str | None:
        """The event's key as text."""
        key = self.message.key()
        return None if key is None else key.decode("utf-8", "replace")

    @property
    def time(self) -> datetime:
        """When the event was written, in UTC."""
        return _EPOCH + timedelta(microseconds=self.time_us)

    @cached_property
    def event(self) -> Any:
        """The decoded event. Raises `DecodeError` (`BadFraming`), `SchemaUnknown` or `RegistryUnavailable`."""
        schema_id, body = unframe(self.message.value())
        return self._receiving.read(self.type, self._receiving.writer(schema_id, self.type), body)

    async def prefetch(self) -> None:
        """Fetch the schema off the event loop, so that `event` does not wait. A broken frame is left to `event`."""
        try:
            schema_id, _ = unframe(self.message.value())
        except BadFraming:
            return
        if not self._receiving.is_at_hand(schema_id):
            await asyncio.to_thread(self._receiving.writer, schema_id, self.type)

    def _id(self) -> UUID:
        text = self._header(header_names.ID)
        try:
            found = UUID(text)
        except ValueError:
            found = None
        if found is None or str(found) != text.lower():
            raise BadMessage(f"{self.where}: the header 'id' is not a UUID")
        return found

    def _header(self, name: str) -> str:
        value = self.headers.get(name)
        if not value:
            raise BadMessage(
                f"{self.where}: the header {name!r} is missing; this is not a record that a Dovetail relay published"
            )
        return value

    def _text_headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.message.headers() or ():
            if name in _OURS and name in found:
                raise BadMessage(f"{self.where}: the header {name!r} is there twice")
            if value is not None and (name in _OURS or len(value) <= _HEADER_BYTES):
                found[name] = value if isinstance(value, str) else value.decode("utf-8", "replace")
        return found
