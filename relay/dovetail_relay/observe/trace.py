"""Where one event is: written, published, consumed."""

from __future__ import annotations

import time
from dataclasses import dataclass
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
from dovetail_relay.observe.topics import Place, Topics, stamp_seconds
from dovetail_relay.routing import router_of
from dovetail_schemas import headers as names

# Clocks of the database and of the relay's machine differ by less; more would only be read for nothing.
MARGIN_SECONDS: Final = 60.0
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


@dataclass(frozen=True, slots=True)
class Search:
    """What was looked through for the record. `complete` is False when the time was up before the end."""

    published: Published | None
    topics: tuple[str, ...]
    records: int
    complete: bool = True
    problem: str | None = None


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
    topics: Topics, settings: Settings, event_id: UUID, row: OutboxRow | None, *, timeout_seconds: float
) -> Search:
    """Find the event's record, at first in the partition that its key belongs to.

    Without the row the id's own time says where to begin, and every topic that events may go to is read.
    """
    deadline = time.monotonic() + timeout_seconds
    counts = topics.partitions()
    if row is None:
        made = written_seconds(event_id)
        if made is None:
            return Search(None, (), 0, complete=False, problem="neither a row nor the id says when it was written")
        asked = {topic: count for topic, count in counts.items() if settings.topic_allowed(topic)}
        likely: list[Place] = []
    else:
        # Where nobody knows, from the beginning of the topic on.
        made = row.created_at.timestamp() if row.created_at else written_seconds(event_id) or MARGIN_SECONDS
        try:
            topic = topic_of(settings, row.aggregatetype, str(event_id))
        except StuckMessage as error:
            return Search(None, (), 0, problem=str(error))
        if topic not in counts:
            return Search(None, (topic,), 0, problem=f"the topic {topic} does not exist")
        asked = {topic: counts[topic]}
        likely = [(topic, murmur2(row.aggregateid.encode(), counts[topic]))]
    rest = [(name, number) for name, count in asked.items() for number in range(count) if (name, number) not in likely]
    records = 0
    try:
        for places in (likely, rest):
            found, read = _scan(topics, places, made - MARGIN_SECONDS, str(event_id).encode(), deadline)
            records += read
            if found is not None:
                return Search(found, tuple(sorted(asked)), records)
    except TimeoutError:
        return Search(None, tuple(sorted(asked)), records, complete=False)
    return Search(None, tuple(sorted(asked)), records)


def report(
    event_id: UUID,
    row: OutboxRow | None,
    found: Search | None,
    taken: list[Taken] | None,
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """The event's way as one JSON object. `found` None: Kafka did not answer; `taken` None: PostgreSQL did not."""
    published = None if found is None else found.published
    return {
        "id": str(event_id),
        "state": state_of(row, found, taken),
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
            "settled": _settled(row, checkpoint),
        },
        "published": None if published is None else {name: getattr(published, name) for name in Published.__slots__},
        "searched": None
        if found is None
        else {"topics": list(found.topics), "records": found.records, "complete": found.complete},
        "consumed": None
        if taken is None
        else [{"consumer": one.consumer, "received_at": moment(one.received_at)} for one in taken],
    }


def state_of(row: OutboxRow | None, found: Search | None, taken: list[Taken] | None) -> str:
    """The furthest station that was seen."""
    if taken:
        return "consumed"
    if found is not None and found.published is not None:
        return "published"
    return "unknown" if row is None else "written"


def finding_of(row: OutboxRow | None, found: Search | None, checkpoint: Checkpoint | None) -> Finding | None:
    """What is wrong with the event's way; None where it is where it should be, or merely on its way."""
    if row is None or found is None or found.published is not None:
        return None
    if found.problem is not None:
        return Finding("NOT_PUBLISHED", found.problem, "dovetail stuck list")
    if not found.complete:
        return Finding("NOT_FOUND_YET", f"the time was up after {found.records} records", "the same with --timeout 300")
    if _settled(row, checkpoint):
        return Finding("NOT_PUBLISHED", "its transaction is settled, and no record carries it", "dovetail stuck list")
    return None


def moment(when: datetime) -> str:
    """RFC 3339 in UTC."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _settled(row: OutboxRow, checkpoint: Checkpoint | None) -> bool | None:
    """Whether the checkpoint says that the row's transaction is behind it; None where nobody can say.

    A transaction at or above the horizon may be published or not.
    """
    if row.xid is None or checkpoint is None or checkpoint.horizon == 0:
        return None
    return True if row.xid < checkpoint.horizon else None


def _scan(
    topics: Topics, places: list[Place], since: float, wanted: bytes, deadline: float
) -> tuple[Published | None, int]:
    if not places:
        return None, 0
    records = 0
    for message in topics.read(topics.offsets_at(places, since), deadline):
        records += 1
        headers: Any = message.headers()
        if id_header(headers) == wanted:
            return _published(message, headers), records
    return None, records


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
