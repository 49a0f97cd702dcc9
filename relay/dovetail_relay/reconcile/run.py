"""Both sides compared. The order matters: first the checkpoint, then the table, then the topics.

What the checkpoint calls settled was in the topics before they were read, so whatever is missing there is missing; and
what is in the topics and not in the table is looked up once more, now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from confluent_kafka import murmur2

from dovetail_relay.config import Settings
from dovetail_relay.errors import CheckpointLost, Misconfigured
from dovetail_relay.nouns import Checkpoint
from dovetail_relay.observe import topics as kafka
from dovetail_relay.observe.database import role_of
from dovetail_relay.reconcile.records import Records, compacted
from dovetail_relay.reconcile.sums import HOUR, MINUTE, Added, Slice, sliced
from dovetail_relay.reconcile.table import Row, Table
from dovetail_relay.reconcile.window import Moment, Window, window
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.slot import relay_row

# Ids that are held at a time, from both sides: some 200 MB.
_IDS_AT_ONCE: Final = 1_000_000
# Events that are named per kind; the others are counted.
NAMED_MOST: Final = 10_000


class What(StrEnum):
    """What became of an event. The first three are findings."""

    MISSING = "missing"
    TOO_MUCH = "too_much"
    DOUBLED = "doubled"
    PARKED = "parked"
    DISCARDED = "discarded"
    DEAD_LETTERED = "dead_lettered"
    THROWN_AWAY = "thrown_away"
    ON_ITS_WAY = "on_its_way"


WRONG: Final = (What.MISSING, What.TOO_MUCH, What.DOUBLED)
_STATES: Final = {
    "parked": What.PARKED,
    "halting": What.PARKED,
    "condemned": What.PARKED,
    "discarded": What.DISCARDED,
    "dead_lettered": What.DEAD_LETTERED,
}


class NotStarted(Exception):
    """There is no checkpoint: the relay has published nothing yet."""


class NoSuchTopic(Exception):
    """A topic that was asked for does not exist."""


class Named(NamedTuple):
    """One event that is not simply published once."""

    what: What
    id: UUID
    topic: str
    created_at: datetime | None
    type: str | None


@dataclass(slots=True)
class Report:
    """What was found. `counts` are by (topic, hour since 1970, what)."""

    relay: str
    window: Window
    checkpoint: Checkpoint
    added: Added
    records: Records
    counts: Counter[tuple[str, int, What]] = field(default_factory=Counter)
    named: dict[What, list[Named]] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.counts[place] for place in self.counts if place[2] in WRONG)

    def count(self, topic: str, minute: int, what: What, events: int = 1) -> None:
        """So many events of one kind."""
        if events:
            self.counts[topic, minute * MINUTE // HOUR, what] += events

    def name(self, found: Named) -> None:
        """Name it while there are not too many."""
        some = self.named.setdefault(found.what, [])
        if len(some) < NAMED_MOST:
            some.append(found)


def reconcile(
    settings: Settings,
    *,
    since: Moment | None,
    until: Moment | None,
    topics: Sequence[str],
    say: Callable[[str], None],
) -> Report:
    """Compare outbox and topics. Raises what the servers' sides raise, NotStarted, NoSuchTopic and NoWindow."""
    with kafka.topics_of(settings) as consumer, session(settings, role_of(settings)) as connection:
        if relay_row(connection, settings) is None:
            raise Misconfigured(f"the database has no relay {settings.relay.name!r}", remedy="dovetail init")
        counts = consumer.partitions()
        if missing := [topic for topic in topics if topic not in counts]:
            raise NoSuchTopic(", ".join(missing))
        checkpoint = _checkpoint(consumer, settings)
        table = Table(connection, settings, checkpoint, frozenset(topics) or None)
        chosen = window(since, until, now=table.now(), retention_days=settings.outbox.retention_days)
        added = Added()
        table.add_up(chosen, added, lambda hour: say(f"outbox: hour {_hour_text(hour // HOUR)}"))
        wanted = set(topics) or {topic for topic, _ in (*added.settled, *added.young)} | set(settings.topics())
        records = Records(consumer, {topic: counts[topic] for topic in sorted(wanted & counts.keys())}, chosen)
        records.compacted = compacted(settings, records.partitions)
        added.published = records.add_up(lambda read: say(f"topics: {read} of about {records.expected} records"))
        report = Report(settings.relay.name, chosen, checkpoint, added, records)
        _passed_over(table, report)
        differing, waiting = added.judged()
        for (topic, minute), found in added.young.items():
            if minute in set(waiting):
                report.count(topic, minute, What.ON_ITS_WAY, found.events)
        if differing:
            for some in sliced(added, differing, _IDS_AT_ONCE):
                say(f"ids: {len(some.minutes)} of {len(differing)} minutes that differ")
                _by_id(table, records, some, report)
        return report


def _checkpoint(consumer: kafka.Topics, settings: Settings) -> Checkpoint:
    side = kafka.look(consumer, settings)
    if side.problem is not None:
        raise CheckpointLost(side.problem)
    if side.checkpoint is None:
        raise NotStarted
    return side.checkpoint


def _passed_over(table: Table, report: Report) -> None:
    """What is parked, or was settled by an operator: counted from the sums, and named."""
    for (topic, minute, state), events in report.added.states.items():
        report.count(topic, minute, _STATES[state], events)
    for event_id, topic, type_, state, created_at in table.parked(report.window, NAMED_MOST):
        report.name(Named(_STATES[state], event_id, topic, created_at, type_))


def _by_id(table: Table, records: Records, some: Slice, report: Report) -> None:
    """Name what differs in some minutes."""
    expected = {event_id: (topic, settled) for event_id, topic, settled in table.ids(some)}
    seen: Counter[bytes] = Counter()
    replayed: set[bytes] = set()
    strange: dict[bytes, tuple[str, int]] = {}
    for event_id, topic, minute, replay in records.ids(some):
        if replay:
            replayed.add(event_id)
            continue
        seen[event_id] += 1
        if event_id not in expected:
            strange[event_id] = (topic, minute)
    lacking = [event_id for event_id in expected if event_id not in seen and event_id not in replayed]
    doubled = [event_id for event_id, times in seen.items() if times > 1]
    for row in table.known(lacking):
        topic, settled = expected[row.id.bytes]
        what = _lacking(row, topic, records, settled=settled)
        if what is not None:
            _note(report, row, topic, what)
    for row in table.known(doubled):
        _note(report, row, (expected.get(row.id.bytes) or strange[row.id.bytes])[0], What.DOUBLED)
    for row in table.known(list(strange)):
        topic, minute = strange[row.id.bytes]
        if row.created_at is not None and _minute(row.created_at) != minute:
            _note(report, row, topic, What.DOUBLED)
        elif not row.found:  # else it was committed since the table was read
            report.count(topic, minute, What.TOO_MUCH)
            report.name(Named(What.TOO_MUCH, row.id, topic, datetime.fromtimestamp(minute * MINUTE, UTC), None))


def _lacking(row: Row, topic: str, records: Records, *, settled: bool) -> What | None:
    """What an event is of which there is a row and no record; None where that was told already."""
    if row.state is not None:
        return None
    if not settled or row.created_at is None or row.aggregateid is None:
        return What.ON_ITS_WAY
    count = records.partitions.get(topic, 0)
    place = (topic, murmur2(row.aggregateid.encode(), count) if count else 0)
    gone = records.thrown_away(*place, _minute(row.created_at)) or records.compacted_away(
        topic, row.aggregateid.encode()
    )
    return What.THROWN_AWAY if gone else What.MISSING


def _note(report: Report, row: Row, topic: str, what: What) -> None:
    report.count(topic, 0 if row.created_at is None else _minute(row.created_at), what)
    if what is not What.ON_ITS_WAY:
        report.name(Named(what, row.id, topic, row.created_at, row.type))


def _minute(when: datetime) -> int:
    return int(when.timestamp()) // MINUTE


def _hour_text(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * HOUR, UTC):%Y-%m-%dT%H:%MZ}"
