"""Which events are in the topics already: what a recovery asks before it publishes anything.

Each partition is read from shortly before the oldest row that may be missing to its high watermark. A reader's own end
is where the oldest open transaction begins, whosever it is, and committed events may lie behind that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from dovetail_relay.config import Settings
from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import dead_letter_topic
from dovetail_relay.observe.events import event_id
from dovetail_relay.observe.topics import Place, Topics, stamp_seconds
from dovetail_relay.routing import router_of
from dovetail_relay.setup.topics import Cluster
from dovetail_schemas import headers as names

# Records carry the time of the relay's machine, rows that of the database, or any time that a service has given them.
MARGIN_SECONDS: Final = 3600.0


class Sighting(NamedTuple):
    """One event in a topic: its id, and when its row was written, as the record says (RFC 3339)."""

    event_id: UUID
    time: str


@dataclass(frozen=True, slots=True)
class Reach:
    """What one topic can still tell. `begins` is the time of its oldest record where something was taken away."""

    topic: str
    partitions: int
    compacted: bool | None
    begins: float | None


def topics_of_rows(settings: Settings, aggregatetypes: Collection[str], recorded: Collection[str]) -> set[str]:
    """Where rows of these types go, or went under an earlier configuration, and where their dead letters are."""
    router = router_of(settings)
    found = {*settings.topics(), *recorded} - {settings.checkpoint_topic}
    for aggregatetype in aggregatetypes:
        try:
            found.add(router.target(aggregatetype).topic)
        except StuckMessage:
            continue  # it has never been anywhere
    return found | {dead_letter_topic(topic) for topic in found}


def published(settings: Settings, topics: Collection[str], since: float) -> Iterator[list[Sighting]]:
    """What the topics hold from `since` (Unix seconds) on; an empty list whenever it waits. A topic may be missing."""
    with ExitStack() as opened:
        committed = opened.enter_context(closing(Topics(settings)))
        raw = opened.enter_context(closing(Topics(settings, isolation="read_uncommitted")))
        counts = raw.partitions()
        places = [(topic, number) for topic in sorted(topics) for number in range(counts.get(topic, 0))]
        if not places:
            return
        starts = raw.offsets_at(places, since - MARGIN_SECONDS)
        ends = {place: raw.low_high(*place)[1] for place in places}
        for place in places:
            # A consumer that has been asked about a partition knows its leader, and need not look for it first.
            committed.low_high(*place)
        for messages in committed.read_up_to(starts, ends):
            yield [found for message in messages if (found := _sighting(message.headers())) is not None]


def reaches(settings: Settings, topics: Collection[str]) -> list[Reach]:
    """How far back each of the topics goes, those that exist."""
    with closing(Topics(settings)) as reader:
        counts = {topic: count for topic, count in reader.partitions().items() if topic in topics}
        compacts = Cluster(settings).compacts(counts)
        return [
            Reach(topic, count, compacts[topic], _begins(reader, topic, count))
            for topic, count in sorted(counts.items())
        ]


def compacted(settings: Settings, aggregatetypes: Collection[str]) -> dict[str, list[str]]:
    """Topic -> those of these types that go to it, of topics that keep the newest record of each key only.

    One whose settings may not be seen may be one. Raises ServerUnreachable.
    """
    router = router_of(settings)
    types: dict[str, list[str]] = {}
    for aggregatetype in sorted(aggregatetypes):
        with suppress(StuckMessage):
            types.setdefault(router.target(aggregatetype).topic, []).append(aggregatetype)
    compacts = Cluster(settings).compacts(types)
    return {topic: types[topic] for topic, so in compacts.items() if so is not False}


def _begins(reader: Topics, topic: str, partitions: int) -> float | None:
    """The newest of the partitions' beginnings, None where nothing was ever taken away."""
    begins: list[float] = []
    for number in range(partitions):
        low, high = reader.low_high(topic, number)
        if low == 0:
            continue
        place: Place = (topic, number)
        first = next((found[0] for found in reader.read_up_to({place: low}, {place: high}) if found), None)
        seconds = None if first is None else stamp_seconds(first)
        begins.append(float("inf") if seconds is None else seconds)
    return max(begins, default=None)


def _sighting(found: Any) -> Sighting | None:
    raw = event_id(found)
    try:
        seen = UUID((raw or b"").decode("ascii"))
    except ValueError:
        # A record of somebody else: it is no event of an outbox.
        return None
    time = next((value for name, value in found if name == names.TIME), b"")
    return Sighting(seen, time.decode("ascii", "replace") if isinstance(time, bytes) else "")
