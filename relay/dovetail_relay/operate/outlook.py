"""What a recovery would do: which rows are missing, and what nobody can know. Changes nothing.

The ids of the rows that may be missing are kept in memory, some 300 bytes each; the relay itself keeps them in a table.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from dovetail_relay import rebase
from dovetail_relay.config import Settings
from dovetail_relay.observe import readback
from dovetail_relay.observe.readback import Reach
from dovetail_relay.operate.diagnosis import Diagnosis
from dovetail_relay.setup.connect import rows, session
from dovetail_schemas.sql import queries

_DAY_SECONDS: Final = 86_400
_FETCHED: Final = 5000


@dataclass(slots=True)
class Outlook:
    """Counts of rows of the outbox from the horizon on, and the ids of those that would be published, by `seq`."""

    horizon: int
    rows: int = 0
    published: int = 0
    held: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    # In the topics, and in no row: a lost timeline's. None where rows and events cannot be compared.
    phantoms: list[str] | None = None
    # Of those that are missing: published, and behind a missing one of their key in a topic that is compacted.
    again: int = 0
    unknown: list[str] = field(default_factory=list)


class _Row:
    """One row that may be missing; kept small. It was not published before `since`."""

    __slots__ = ("aggregateid", "aggregatetype", "created", "since")

    def __init__(self, aggregatetype: str, aggregateid: str, created: float, since: float) -> None:
        self.aggregatetype = aggregatetype
        self.aggregateid = aggregateid
        self.created = created
        self.since = since


def outlook(settings: Settings, seen: Diagnosis, *, new_epoch: bool = False) -> Outlook:
    """Count. With `new_epoch` nothing of the past is believed, and all rows are looked at.

    Takes as long as the outbox and the topics are large; raises what the servers' clients raise.
    """
    horizon = 0 if new_epoch else rebase.horizon(seen.facts, seen.row, seen.found, ())
    found = Outlook(horizon)
    with session(settings, "operator") as connection:
        waiting, held = _rows(connection, horizon), _held(connection, settings.relay.name)
    found.rows = len(waiting)
    types = {row.aggregatetype for row in waiting.values()}
    topics = readback.topics_of_rows(settings, types, seen.recorded)
    since = min(max(min((row.since for row in waiting.values()), default=0.0), 0.0), time.time())
    out = _published(settings, topics, since, waiting, found, strays=not horizon and not settings.outbox.messages)
    left: list[_Row] = []
    topic_of = {kind: topic for topic, kinds in readback.compacted(settings, types).items() for kind in kinds}
    overtaken: set[tuple[str, str]] = set()
    for event_id, row in waiting.items():
        state, topic = held.get(event_id), topic_of.get(row.aggregatetype)
        if event_id in out and state != "dead_lettered" and (topic, row.aggregateid) in overtaken:
            found.again += 1
            found.missing.append(str(event_id))
        elif event_id in out and state != "dead_lettered":
            found.published += 1
        elif event_id in out or state in {"parked", "discarded"}:
            found.held[str(state)] += 1
        else:
            found.missing.append(str(event_id))
            left.append(row)
            if topic is not None:
                overtaken.add((topic, row.aggregateid))
    if found.held["parked"] and not rebase.tells_what_is_parked(seen.facts, seen.row, seen.found, ()):
        found.unknown.append(
            f"which of the {found.held['parked']} parked rows will be parked again: the recovery judges them anew and "
            "counts them among the missing"
        )
    if found.again:
        found.unknown.append(
            f"{found.again} events of compacted topics are there and go out again, behind an older one of their key, "
            "so that the newest stays the newest"
        )
    found.unknown += _unknown(settings, seen, readback.reaches(settings, topics), left)
    return found


def _published(
    settings: Settings, topics: set[str], since: float, waiting: dict[UUID, _Row], found: Outlook, *, strays: bool
) -> set[UUID]:
    """Which of the rows are in the topics; what has no row goes into `found`."""
    out: set[UUID] = set()
    if not waiting:
        return out
    oldest = datetime.fromtimestamp(since, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    phantoms: dict[UUID, None] = {}
    for sightings in readback.published(settings, topics, since):
        for sighting in sightings:
            if sighting.event_id in waiting:
                out.add(sighting.event_id)
            elif strays and sighting.time >= oldest:
                phantoms[sighting.event_id] = None
    if strays:
        found.phantoms = [str(event_id) for event_id in phantoms]
    return out


def _unknown(settings: Settings, seen: Diagnosis, reaches: list[Reach], missing: list[_Row]) -> Iterator[str]:
    for reach in reaches:
        if reach.compacted:
            yield f"topic {reach.topic} is compacted: what is not in it may have been published all the same"
        elif reach.compacted is None:
            yield f"whether topic {reach.topic} is compacted: its settings may not be seen"
        older = sum(1 for row in missing if reach.begins is not None and row.created < reach.begins)
        if older:
            yield (
                f"topic {reach.topic} no longer reaches back to the oldest rows: {older} of those that are missing may "
                "have been published and removed by retention; they would be published again"
            )
    if settings.outbox.messages:
        yield "logical messages leave no row: those that were not published are not found"
    age = seen.kafka.age_seconds
    if age is not None and age > settings.outbox.retention_days * _DAY_SECONDS:
        days = age / _DAY_SECONDS
        yield f"the newest checkpoint is {days:.0f} days old: rows that were emptied since then are not found"
    if seen.found is None:
        yield "without a checkpoint: how long nothing was published, and whether the outbox has emptied rows meanwhile"
    if seen.switched:
        yield "whether the checkpoint lies beyond the switch to the server's timeline: the relay will look"


def _rows(connection: psycopg.Connection[Any], horizon: int) -> dict[UUID, _Row]:
    types: dict[str, str] = {}
    found: dict[UUID, _Row] = {}
    with connection.transaction(), connection.cursor("dovetail_outlook") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(queries["recovery_rows"], {"horizon": horizon})
        for row in cursor:
            kind = types.setdefault(row["aggregatetype"], row["aggregatetype"])
            found[row["id"]] = _Row(kind, row["aggregateid"], row["created"], row["since"])
    return found


def _held(connection: psycopg.Connection[Any], relay: str) -> dict[UUID, str]:
    return {row["id"]: row["state"] for row in rows(connection, queries["recovery_parked"], {"relay": relay})}
