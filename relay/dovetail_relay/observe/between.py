"""Which events were published from transactions that committed between two places in the log."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final, NamedTuple
from uuid import UUID

from confluent_kafka import Message

from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured
from dovetail_relay.nouns import Lsn
from dovetail_relay.observe.topics import Topics
from dovetail_schemas import headers as names
from dovetail_schemas.errors import PositionInvalid
from dovetail_schemas.position import Position

# The topics are read for these ids and nothing else; a longer list is chosen by time, which the database answers.
MOST: Final = 100_000
READ_SECONDS: Final = 600.0


class TooMany(Misconfigured):
    """The range holds more than this way of choosing is for, or the topics more than can be read for it."""

    name = "RANGE_TOO_LARGE"
    default_remedy = "dovetail replay --since … --until …"


class Between(NamedTuple):
    """`ids` in the positions' order; `others` are how many events of other epochs have a position in the range."""

    ids: list[UUID]
    others: dict[int, int]


def published(topics: Topics, settings: Settings, epoch: int, first: Lsn, last: Lsn) -> Between:
    """The events of `epoch` whose commit LSN lies in `first` to `last`. Raises TooMany.

    Reads what is committed in every topic that events may go to, from its beginning. An LSN says nothing without its
    epoch, for another one may be of another server, so those are counted only; replayed records are passed over, whose
    position is not where they stood.
    """
    counts = topics.partitions()
    starts = {
        (topic, partition): topics.low_high(topic, partition)[0]
        for topic in sorted(counts)
        if settings.topic_allowed(topic)
        for partition in range(counts[topic])
    }
    found: dict[UUID, Position] = {}
    others = Counter[int]()
    if not starts:
        return Between([], {})
    try:
        for message in topics.read(starts, time.monotonic() + READ_SECONDS):
            place = _place(message)
            if place is None:
                continue
            event_id, position = place
            if not first <= position.commit_lsn <= last:
                continue
            if position.epoch != epoch:
                others[position.epoch] += 1
            else:
                found[event_id] = position
                if len(found) > MOST:
                    raise TooMany(f"more than {MOST} events were published from this range")
    except TimeoutError:
        raise TooMany(f"the topics could not be read to their ends within {READ_SECONDS:g} s") from None
    return Between(sorted(found, key=lambda event_id: found[event_id]), dict(sorted(others.items())))


def _place(message: Message) -> tuple[UUID, Position] | None:
    """A record's event and its position; None for a replayed one, and for what no relay of ours has written."""
    found: Any = message.headers() or ()
    texts = {name: value for name, value in reversed(found) if isinstance(value, bytes)}
    if names.REPLAY in texts:
        return None
    try:
        return UUID(texts[names.ID].decode()), Position.parse(texts[names.POSITION].decode())
    except (KeyError, ValueError, PositionInvalid):
        return None
