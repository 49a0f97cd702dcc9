"""Event types and events: what a service defines once, and what it publishes."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from dovetail.errors import EventTypeInvalid, KeyInvalid, KeyRequired, NotAnEvent
from dovetail.ids import uuid7
from dovetail.shapes import Shape, shape_of
from dovetail_schemas.avro import Codec

KEY_BYTES = 1024

_T = TypeVar("_T")
# Both names end up in topic and subject names, so they keep to what Kafka and every registry accept.
_TYPE_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_AGGREGATE = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_ATTRIBUTE = "__dovetail_event_type__"


class EventType:
    """A kind of event: its name, the aggregate it belongs to, where its key is, and its schema.

    `name` is the record's `type` and the subject of its schema; `aggregate` names the topic; `key` is a field's name
    or a function of the payload. Immutable and safe to share between threads.
    """

    def __init__(
        self,
        name: str,
        *,
        aggregate: str,
        key: str | Callable[[Any], object],
        codec: Codec,
        shape: Shape | None = None,
    ) -> None:
        if not isinstance(name, str) or not _TYPE_NAME.fullmatch(name):
            raise EventTypeInvalid(f"the event type {str(name)[:80]!r} must be 1 to 255 of A-Z a-z 0-9 . _ -")
        if not isinstance(aggregate, str) or not _AGGREGATE.fullmatch(aggregate) or aggregate in {".", ".."}:
            raise EventTypeInvalid(
                f"{name}: the aggregate {str(aggregate)[:80]!r} must be 1 to 200 of A-Z a-z 0-9 . _ -"
            )
        if isinstance(key, str):
            fields = _field_names(codec)
            if key not in fields:
                raise EventTypeInvalid(f"{name}: the key field {key[:80]!r} is not one of {', '.join(fields)[:80]}")
        elif not callable(key):
            raise EventTypeInvalid(f"{name}: key must be a field's name or a function of the payload")
        self.name = name
        self.aggregate = aggregate
        self.key = key
        self.codec = codec
        self.fingerprint = codec.fingerprint
        self.shape = shape

    @property
    def subject(self) -> str:
        """The subject under which the schema's versions are kept."""
        return self.name

    @classmethod
    def from_avsc(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        aggregate: str,
        key: str | Callable[[Any], object],
        type: str | None = None,  # noqa: A002 - the word of the domain
        allow_recursive: bool = False,
    ) -> "EventType":
        """An event type from an `.avsc` file (its path) or a schema as a dict; `type` defaults to the full name."""
        schema = dict(source) if isinstance(source, Mapping) else Path(source).read_text("utf-8")
        codec = Codec(schema, allow_recursive=allow_recursive)
        return cls(type or codec.name, aggregate=aggregate, key=key, codec=codec)

    @classmethod
    def of(cls, source: Any) -> "EventType":
        """The event type of a decorated class, of its instance, or the type itself."""
        if isinstance(source, cls):
            return source
        owner = source if isinstance(source, type) else type(source)
        # Not inherited: a subclass has other fields, so another schema.
        found = vars(owner).get(_ATTRIBUTE)
        if isinstance(found, cls):
            return found
        raise NotAnEvent(
            f"{owner.__name__} is not an event; put @dovetail.event(…) above the class, or use EventType.from_avsc"
        )

    def __call__(
        self,
        payload: Any,
        *,
        key: object = None,
        id: UUID | None = None,  # noqa: A002 - the header's name
        headers: Mapping[str, str] | None = None,
    ) -> "Event":
        """An event of this type. The payload is checked when it is published."""
        return Event(self, payload, key=key, id=id or uuid7(), headers=headers or {})

    def __repr__(self) -> str:
        return f"<EventType {self.name} {self.fingerprint.hex()}>"

    def key_of(self, payload: Any, given: object = None) -> str:
        """The key as text: the one given, else the one in the payload."""
        value = given if given is not None else self._extract(payload)
        if value is None:
            raise KeyRequired(f"{self.name}: the key is None; order is kept per key, so pass key=…")
        if isinstance(value, bool) or not isinstance(value, str | int | UUID):
            raise KeyInvalid(f"{self.name}: the key is a {type(value).__name__}; it must be a str, an int or a UUID")
        text = value if type(value) is str else str.__str__(value) if isinstance(value, str) else str(value)
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            raise KeyInvalid(f"{self.name}: the key has a lone surrogate, which is not text") from None
        if not 1 <= size <= KEY_BYTES or "\0" in text:
            raise KeyInvalid(f"{self.name}: the key has {size} bytes; it must have 1 to {KEY_BYTES}, none of them NUL")
        return text

    def _extract(self, payload: Any) -> object:
        key = self.key
        if callable(key):
            return key(payload)
        return payload.get(key) if isinstance(payload, Mapping) else getattr(payload, key, None)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, ready to be published; its id is fixed here, so publishing it twice is refused."""

    type: EventType
    payload: Any = field(repr=False)
    key: object = field(default=None, repr=False)
    id: UUID = field(default_factory=uuid7)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: Any) -> "Event":
        """The event itself, or one around an instance of a decorated class."""
        return source if isinstance(source, cls) else cls(EventType.of(source), source)


def event(
    name: str,
    *,
    aggregate: str,
    key: str | Callable[[Any], object],
    namespace: str | None = None,
) -> Callable[[type[_T]], type[_T]]:
    """Make a dataclass or a pydantic model an event type; its fields become an Avro record.

        @dovetail.event("OrderPlaced", aggregate="order", key="order_id")
        @dataclass
        class OrderPlaced: ...

    Raises `EventTypeInvalid` naming the field whose type has no Avro form.
    """
    # Annotations are text under `from __future__ import annotations`; a class made in a function needs its names.
    scope = dict(sys._getframe(1).f_locals)

    def decorate(cls: type[_T]) -> type[_T]:
        shape = shape_of(cls, scope, namespace)
        setattr(cls, _ATTRIBUTE, EventType(name, aggregate=aggregate, key=key, codec=Codec(shape.schema), shape=shape))
        return cls

    return decorate


def _field_names(codec: Codec) -> list[str]:
    root = json.loads(codec.normalised)
    return [field["name"] for field in root["fields"]] if isinstance(root, dict) and "fields" in root else []
