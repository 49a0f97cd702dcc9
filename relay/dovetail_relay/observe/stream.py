"""The decoded events of some topics as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from confluent_kafka import Message

from dovetail_relay.config import Settings
from dovetail_relay.observe.events import Event, Raw, read
from dovetail_relay.observe.schemas import Schemas
from dovetail_relay.observe.topics import Topics, stamp_seconds


class NoTopic(Exception):
    """There is nothing to follow. `missing` are topics that were asked for and are not there."""

    def __init__(self, missing: Sequence[str], there: Sequence[str]) -> None:
        super().__init__()
        self.missing = tuple(missing)
        self.there = tuple(there)


def chosen(asked: Sequence[str], settings: Settings, counts: dict[str, int]) -> dict[str, int]:
    """The topics to follow with their partitions: those asked for, else the routes', else what events may go to.

    Raises NoTopic where one that was asked for does not exist, or nothing is left.
    """
    routed = settings.topics()
    # The routes' own first: on a cluster of many they are what is meant.
    events = sorted((topic for topic in counts if settings.topic_allowed(topic)), key=lambda it: (it not in routed, it))
    if asked:
        missing = [topic for topic in asked if topic not in counts]
        if missing:
            raise NoTopic(missing, events)
        return {topic: counts[topic] for topic in asked}
    named = [topic for topic in routed if topic in counts] or events
    if not named:
        raise NoTopic(routed, events)
    return {topic: counts[topic] for topic in named}


def events_of(
    topics: Topics,
    following: dict[str, int],
    settings: Settings,
    schemas: Schemas,
    *,
    from_start: bool,
    seconds: float | None = None,
    on_following: Callable[[], None] = lambda: None,
) -> Iterator[Event]:
    """Events as they come, for ever or for `seconds`. What cannot be decoded comes with its reason."""
    plain = {route.topic for route in settings.routes.values() if route.value == "passthrough"}
    places = [(topic, number) for topic, count in following.items() for number in range(count)]
    deadline = None if seconds is None else time.monotonic() + seconds
    for number, message in enumerate(topics.follow(places, from_start=from_start)):
        if number == 0:
            on_following()
        if message is not None:
            yield event_of(message, None if (message.topic() or "") in plain else schemas)
        if deadline is not None and time.monotonic() >= deadline:
            return


def event_of(message: Message, schemas: Schemas | None) -> Event:
    """One record as an event; `schemas` None for a topic whose values are as they were written."""
    found: Any = message.headers() or ()
    raw = Raw(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        value=message.value(),
        headers=[(name, _raw(value)) for name, value in found],
        stamp_seconds=stamp_seconds(message),
    )
    return read(raw, None if schemas is None else schemas.codec)


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
