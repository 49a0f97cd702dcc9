"""Where one event is: written, held, published, consumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from confluent_kafka import Message, murmur2

from dovetail_relay.config import Settings
from dovetail_relay.errors import ConfigInvalid, StuckMessage
from dovetail_relay.nouns import Checkpoint
from dovetail_relay.observe.database import OutboxRow, Taken
from dovetail_relay.observe.events import event_id as id_header
from dovetail_relay.observe.events import text
from dovetail_relay.observe.facts import Finding
from dovetail_relay.observe.held import Held
from dovetail_relay.observe.held import as_json as held_json
from dovetail_relay.observe.held import finding_of as finding_of_held
from dovetail_relay.observe.topics import Place, Topics, stamp_seconds
from dovetail_relay.routing import router_of
from dovetail_relay.settings.secret import Secret
from dovetail_schemas import headers as names

# Clocks of the database and of the relay's machine differ by less; more would only be read for nothing.
MARGIN_SECONDS: Final = 60.0
# After its first record others are looked for that long: those of an event that was published twice.
MORE_SECONDS: Final = 3.0
_UUID7: Final = 7


@dataclass(frozen=True, slots=True)
class Published:
    """The record that carries the event."""

    topic: str
    partition: int
    offset: int
    position: str | None
    type: str | None
    key: str | None
    time: str | None
    replay: bool


@dataclass(slots=True)
class Search:
    """What was looked through for the event's records, in the order in which they were met.

    `complete` is False when the time was up before the end. `trimmed`: a partition no longer has its first records.
    """

    topics: tuple[str, ...] = ()
    found: list[Published] = field(default_factory=list)
    records: int = 0
    complete: bool = True
    trimmed: bool = False
    problem: str | None = None

    @property
    def published(self) -> Published | None:
        """The record that carries it: the first one that is no replay, where there is one."""
        return next((record for record in self.found if not record.replay), next(iter(self.found), None))

    @property
    def doubled(self) -> list[Published]:
        """All of its records where a reader without an inbox gets it more than once; replays repeat it on purpose."""
        own = [record for record in self.found if not record.replay]
        return own if len(own) > 1 else []


@dataclass(frozen=True, slots=True)
class Way:
    """What was found of one event. `search` None: Kafka did not answer; `taken` None: PostgreSQL did not."""

    event_id: UUID
    row: OutboxRow | None = None
    search: Search | None = None
    taken: list[Taken] | None = None
    held: Held | None = None
    checkpoint: Checkpoint | None = None

    @property
    def published(self) -> Published | None:
        """The record that carries it."""
        return None if self.search is None else self.search.published

    @property
    def state(self) -> str:
        """The furthest station that was seen."""
        if self.taken:
            return "consumed"
        if self.published is not None:
            return "published"
        if self.held is not None:
            return self.held.station
        return "unknown" if self.row is None else "written"


def topic_of(settings: Settings, aggregatetype: str, event_id: str) -> str:
    """Where the relay sends rows of this aggregate type. Raises StuckMessage where it may not send them anywhere."""
    try:
        router = router_of(settings)
    except ConfigInvalid as error:
        raise StuckMessage(str(error), event_id=event_id, reason="unroutable") from error
    return router.target(aggregatetype, event_id=event_id).topic


def written_seconds(event_id: UUID) -> float | None:
    """When a time-ordered id was made, in Unix seconds; None for other kinds of ids."""
    return (event_id.int >> 80) / 1000 if event_id.version == _UUID7 else None


def search(
    topics: Topics,
    settings: Settings,
    event_id: UUID,
    row: OutboxRow | None,
    *,
    thorough: bool,
    timeout_seconds: float,
) -> Search:
    """Find the event's records, at first in the partition that its key belongs to.

    Without the row every topic that events may go to is read. The times of row and id are anybody's word: a `thorough`
    search that finds nothing from there on reads again from the beginning.
    """
    counts = topics.partitions()
    likely: list[Place] = []
    if row is None:
        asked = {topic: count for topic, count in counts.items() if settings.topic_allowed(topic)}
        made = written_seconds(event_id) or 0.0
    else:
        made = row.created_at.timestamp() if row.created_at else written_seconds(event_id) or 0.0
        try:
            topic = topic_of(settings, row.aggregatetype, str(event_id))
        except StuckMessage as error:
            return Search(problem=str(error))
        if topic not in counts:
            return Search((topic,), problem=f"the topic {topic} does not exist")
        asked = {topic: counts[topic]}
        likely = [(topic, murmur2(row.aggregateid.encode(), counts[topic]))]
    places = [(name, number) for name, count in asked.items() for number in range(count)]
    rest = [place for place in places if place not in likely]
    result = Search(tuple(sorted(asked)))
    since = max(0.0, made - MARGIN_SECONDS)
    reading = _Reading(topics, event_id, time.monotonic() + timeout_seconds, result)
    try:
        for some in (likely, rest):
            reading.scan(some, since)
        if thorough and since and not result.found:
            reading.scan(places, 0.0)
    except TimeoutError:
        result.complete = False
    result.trimmed = thorough and not result.found and any(topics.low_high(*place)[0] > 0 for place in places)
    return result


def report(way: Way) -> dict[str, Any]:
    """The event's way as one JSON object."""
    row, found = way.row, way.search
    return {
        "id": str(way.event_id),
        "state": way.state,
        "written": None
        if row is None
        else {
            "created_at": None if row.created_at is None else moment(row.created_at),
            "aggregatetype": row.aggregatetype,
            "key": row.aggregateid,
            "type": row.type,
            "payload_bytes": row.payload_bytes,
            "bucket": row.bucket,
            "xid": row.xid,
            "settled": settled(row, way.checkpoint),
        },
        "held": None if way.held is None else held_json(way.held),
        "published": None if way.published is None else asdict(way.published),
        "records": [] if found is None else [asdict(record) for record in found.found],
        "searched": None
        if found is None
        else {"topics": list(found.topics), "records": found.records, "complete": found.complete},
        "consumed": None
        if way.taken is None
        else [{"consumer": one.consumer, "received_at": moment(one.received_at)} for one in way.taken],
    }


def finding_of(way: Way, properties: Mapping[str, str | Secret]) -> Finding | None:
    """What is wrong with the event's way; None where it is where it should be, or merely on its way."""
    doubled = [] if way.search is None else way.search.doubled
    if doubled:
        places = ", ".join(f"{one.topic}[{one.partition}]@{one.offset}" for one in doubled)
        words = f"{len(doubled)} records carry it: {places}; an inbox takes it once"
        return Finding("DOUBLED", words, "dovetail reconcile, which finds all such events")
    if way.published is not None:
        return None
    if way.held is not None:
        return finding_of_held(str(way.event_id), way.held, properties, kept=way.row is not None)
    if way.row is None or way.search is None:
        return None
    return _not_published(way.event_id, way.row, way.search, way.checkpoint)


def _not_published(event_id: UUID, row: OutboxRow, found: Search, checkpoint: Checkpoint | None) -> Finding | None:
    if found.problem is not None:
        return Finding("NOT_PUBLISHED", found.problem, "dovetail init, then start the relay again with the same file")
    if not found.complete:
        return Finding("NOT_FOUND_YET", f"the time was up after {found.records} records", "the same with --timeout 300")
    if not settled(row, checkpoint):
        return None
    words = f"its transaction is settled, and none of {found.records} records carries it"
    if found.trimmed:
        words += "; but its topic no longer has its first records, and may have had it"
    return Finding("NOT_PUBLISHED", words, f"dovetail replay --id {event_id} --reason …, which publishes it")


def moment(when: datetime) -> str:
    """RFC 3339 in UTC."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def settled(row: OutboxRow, checkpoint: Checkpoint | None) -> bool | None:
    """Whether the checkpoint says that the row's transaction is behind it; None where nobody can say.

    A transaction at or above the horizon may be published or not.
    """
    if row.xid is None or checkpoint is None or checkpoint.horizon == 0:
        return None
    return True if row.xid < checkpoint.horizon else None


class _Reading:
    """Notes in `result` what carries the event, until the deadline (monotonic)."""

    def __init__(self, topics: Topics, event_id: UUID, deadline: float, result: Search) -> None:
        self._topics = topics
        self._wanted = str(event_id).encode()
        self._deadline = deadline
        self._result = result

    def scan(self, places: list[Place], since: float) -> None:
        """Raises TimeoutError; once something is found a few seconds more are enough."""
        if not places:
            return
        result = self._result
        for message in self._topics.read(self._topics.offsets_at(places, since), self._deadline):
            result.records += 1
            headers: Any = message.headers()
            if id_header(headers) == self._wanted:
                if not result.found:
                    self._deadline = min(self._deadline, time.monotonic() + MORE_SECONDS)
                result.found.append(_published(message, headers))
            elif result.found and time.monotonic() > self._deadline:
                raise TimeoutError


def _published(message: Message, headers: list[tuple[str, Any]]) -> Published:
    texts = {name: text(value) for name, value in reversed(headers)}
    seconds = stamp_seconds(message)
    return Published(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        position=texts.get(names.POSITION),
        type=texts.get(names.TYPE),
        key=text(message.key()),
        time=None if seconds is None else moment(datetime.fromtimestamp(seconds, UTC)),
        replay=names.REPLAY in texts,
    )
