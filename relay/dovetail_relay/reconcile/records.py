"""Kafka's side: what committed records add up to, and their ids where it matters."""

from __future__ import annotations

import math
import time
from binascii import Error, unhexlify
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from confluent_kafka import Message

from dovetail_relay.books import sum_of
from dovetail_relay.config import Settings
from dovetail_relay.errors import ServerUnreachable
from dovetail_relay.observe.topics import Place, Topics
from dovetail_relay.reconcile.sums import HOUR, MINUTE, Slice, Sums, put
from dovetail_relay.reconcile.window import Window
from dovetail_relay.setup.topics import Cluster
from dovetail_schemas import headers as names
from dovetail_schemas.errors import TimeInvalid

# Clocks of the database and of the relay's machine differ by less.
_MARGIN_SECONDS: Final = 300.0
# No record and no end for so long: nobody is there any more.
_SILENT_SECONDS: Final = 30.0
_PENDING: Final = 50_000


class Records:
    """What some topics hold of a window. `partitions` are their counts."""

    def __init__(self, topics: Topics, partitions: Mapping[str, int], window: Window) -> None:
        self._topics = topics
        self._first, self._end = window.start // MINUTE, window.end // MINUTE
        self.partitions = dict(partitions)
        self.replays = 0
        self.strangers = 0
        # The first minute of which a partition still holds everything, where something was thrown away before.
        self.floors: dict[Place, float] = {}
        # Topics that keep the newest record of a key: of their records the keys are remembered, by their hashes.
        self.compacted: set[str] = set()
        self._keys: set[int] = set()
        # (topic, partition, hour of creation) -> first and last offset.
        self._ranges: dict[tuple[str, int, int], list[int]] = {}
        places = [(topic, number) for topic, count in partitions.items() for number in range(count)]
        self._starts = topics.offsets_at(places, window.start - _MARGIN_SECONDS)
        self.expected = 0
        for place, start in self._starts.items():
            low, high = topics.low_high(*place)
            self.expected += max(0, high - start)
            if low > 0 and start <= low:
                self.floors[place] = math.inf

    def add_up(self, on_records: Callable[[int], None]) -> Sums:
        """Read everything once. Replays are counted apart: they repeat events on purpose."""
        sums: Sums = {}
        pending: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        waiting = 0
        for count, message in enumerate(self._messages(self._starts), start=1):
            place = (message.topic() or "", message.partition() or 0)
            event_id, minute, replay = _marks(message)
            if event_id is None or minute is None:
                self.strangers += 1
                continue
            if place[0] in self.compacted:
                self._keys.add(hash((place[0], message.key())))
            if self.floors.get(place) == math.inf:
                self.floors[place] = minute + 1
            if not self._first <= minute < self._end:
                continue
            offset = message.offset() or 0
            seen = self._ranges.setdefault((*place, minute * MINUTE // HOUR), [offset, offset])
            seen[1] = offset
            if replay:
                self.replays += 1
                continue
            pending[place[0], minute].append(event_id)
            waiting += 1
            if waiting == _PENDING:
                on_records(count)
                _settle(sums, pending)
                waiting = 0
        _settle(sums, pending)
        return sums

    def ids(self, wanted: Slice) -> Iterator[tuple[bytes, str, int, bool]]:
        """(id, topic, minute, whether it is a replay) of the records whose events were created in some minutes."""
        hours = {minute * MINUTE // HOUR for minute in wanted.minutes}
        starts: dict[Place, int] = {}
        ends: dict[Place, int] = {}
        for (topic, partition, hour), (first, last) in self._ranges.items():
            if hour in hours:
                place = (topic, partition)
                starts[place] = min(first, starts.get(place, first))
                ends[place] = max(last, ends.get(place, last))
        open_ends = set(ends)
        for message in self._messages(starts) if starts else ():
            place = (message.topic() or "", message.partition() or 0)
            offset = message.offset() or 0
            if offset <= ends[place]:
                event_id, minute, replay = _marks(message)
                if event_id is not None and minute in wanted.minutes and minute is not None:
                    yield unhexlify(event_id.translate(None, b"-")), place[0], minute, replay
            if offset >= ends[place]:
                open_ends.discard(place)
                if not open_ends:
                    return

    def compacted_away(self, topic: str, key: bytes) -> bool:
        """Whether the topic may have lost a record of this key to another one. The newest of a key always stays."""
        return topic in self.compacted and hash((topic, key)) in self._keys

    def thrown_away(self, topic: str, partition: int, minute: int) -> bool:
        """Whether the partition has lost records of this minute to its retention, or may have."""
        return minute < self.floors.get((topic, partition), -math.inf)

    def _messages(self, starts: Mapping[Place, int]) -> Iterator[Message]:
        at = dict(starts)
        while True:
            came = False
            try:
                for message in self._topics.read(at, time.monotonic() + _SILENT_SECONDS):
                    at[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
                    came = True
                    yield message
                return
            except TimeoutError:
                if not came:
                    raise ServerUnreachable(f"Kafka: no record came within {_SILENT_SECONDS:g} s") from None


def compacted(settings: Settings, topics: Iterable[str]) -> set[str]:
    """Those of `topics` that throw away all but the newest record of a key. A right that is missing tells nothing."""
    return {topic for topic, so in Cluster(settings).compacts(topics).items() if so}


def _settle(sums: Sums, pending: defaultdict[tuple[str, int], list[bytes]]) -> None:
    for (topic, minute), ids in pending.items():
        put(sums, topic, minute, sum_of(ids))
    pending.clear()


def _marks(message: Message) -> tuple[bytes | None, int | None, bool]:
    """Id, minute of creation, and whether it is a replay; None where a record is not one of a relay."""
    event_id = minute = None
    replay = False
    headers: Any = message.headers()
    for name, value in headers or ():
        if name == names.ID:
            event_id = event_id or _uuid(value)
        elif name == names.TIME:
            minute = _minute(value[:16]) if minute is None and isinstance(value, bytes) else minute
        elif name == names.REPLAY:
            replay = True
    return event_id, minute, replay


def _uuid(value: object) -> bytes | None:
    if not isinstance(value, bytes) or len(value) != 36:
        return None
    try:
        return value if len(unhexlify(value.translate(None, b"-"))) == 16 else None
    except Error:
        return None


@lru_cache(maxsize=1024)
def _minute(text: bytes) -> int | None:
    try:
        return names.parse_time(text.decode("ascii", "replace") + ":00.000000Z") // (MINUTE * 1_000_000)
    except TimeInvalid:
        return None
