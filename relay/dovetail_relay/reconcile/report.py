"""What was found, for a script and for a person. Pure."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

from dovetail_relay.nouns import lsn_text
from dovetail_relay.observe.printable import printable
from dovetail_relay.reconcile.run import NAMED_MOST, WRONG, Report, What
from dovetail_relay.reconcile.sums import HOUR, MINUTE, Sums

TOPIC_COLUMNS: Final = ("topic", "outbox", "published", *(what.value for what in What))
EVENT_COLUMNS: Final = ("what", "id", "topic", "created_at", "type")
# What one screen can carry; `--output json` has more.
_SHOWN_MOST: Final = 100
# So many ids a person can be asked to type, or to paste.
_TYPED_MOST: Final = 5


def as_json(report: Report) -> dict[str, Any]:
    """What `--output json` prints."""
    window, checkpoint = report.window, report.checkpoint
    return {
        "balanced": report.balanced,
        "relay": report.relay,
        "since": time_text(window.start),
        "until": time_text(window.end),
        "checkpoint": {
            "seq": checkpoint.seq,
            "end_lsn": lsn_text(checkpoint.end_lsn),
            "horizon": checkpoint.horizon,
        },
        "topics": topics(report),
        "hours": hours(report),
        "events": events(report),
        "replays": report.records.replays,
        "other_records": report.records.strangers,
    }


def topics(report: Report) -> list[dict[str, Any]]:
    """One line per topic."""
    rows, published, kinds = Counter[str](), Counter[str](), Counter[tuple[str, What]]()
    for (topic, _), count in _by_hour(report.added.settled, report.added.young).items():
        rows[topic] += count
    for (topic, _), count in _by_hour(report.added.published).items():
        published[topic] += count
    for (topic, _, what), count in report.counts.items():
        kinds[topic, what] += count
    names = sorted({*rows, *published, *report.records.partitions})
    return [
        {
            "topic": name,
            "outbox": rows[name],
            "published": published[name],
            **{what.value: kinds[name, what] for what in What},
        }
        for name in names
    ]


def hours(report: Report) -> list[dict[str, Any]]:
    """One line per topic and hour in which anything happened."""
    rows = _by_hour(report.added.settled, report.added.young)
    published = _by_hour(report.added.published)
    places = {*rows, *published, *((topic, hour) for topic, hour, _ in report.counts)}
    return [
        {
            "hour": time_text(hour * HOUR),
            "topic": topic,
            "outbox": rows[topic, hour],
            "published": published[topic, hour],
            **{what.value: report.counts[topic, hour, what] for what in What},
        }
        for topic, hour in sorted(places, key=lambda place: (place[1], place[0]))
    ]


def events(report: Report) -> list[dict[str, Any]]:
    """The events that are not simply published once, the worst first."""
    return [
        {
            "what": found.what.value,
            "id": str(found.id),
            "topic": found.topic,
            "created_at": None if found.created_at is None else found.created_at.astimezone(UTC).isoformat(),
            "type": found.type,
        }
        for what in What
        for found in report.named.get(what, ())
    ]


def shown_events(report: Report) -> list[dict[str, Any]]:
    """The same as a terminal can take it."""
    safe = ("topic", "type")
    found = events(report)[:_SHOWN_MOST]
    return [{**event, **{name: printable(event[name]) for name in safe if event[name] is not None}} for event in found]


def remarks(report: Report) -> list[str]:
    """What a person should know about the comparison itself."""
    said = []
    window = report.window
    if window.asked is not None:
        said.append(f"rows from before {time_text(window.start)} may be gone; compared from there")
    if thrown := _count(report, What.THROWN_AWAY):
        said.append(f"{thrown} events are no longer in their topic, which compacts or keeps less than the outbox")
    if report.records.replays:
        said.append(
            f"{report.records.replays} records are replays: not counted as published; what one carries is not missing"
        )
    if report.records.strangers:
        said.append(f"{report.records.strangers} records were not written by a relay; they were passed over")
    for what in What:
        left = _count(report, what) - len(report.named.get(what, ()))
        if left > 0 and len(report.named.get(what, ())) == NAMED_MOST:
            said.append(f"{left} more events are {words(what)}")
    return said


def verdict(report: Report) -> str:
    """The last line."""
    rows = sum(_by_hour(report.added.settled, report.added.young).values())
    waiting = _count(report, What.ON_ITS_WAY)
    between = f"between {time_text(report.window.start)} and {time_text(report.window.end)}"
    if report.balanced:
        return f"balanced: {rows} events {between}" + (f", {waiting} of them still on their way" if waiting else "")
    wrong = ", ".join(f"{_count(report, what)} {words(what)}" for what in WRONG if _count(report, what))
    return f"NOT_BALANCED: {wrong}, of {rows} events {between}; next: {_cure(report)}"


def _cure(report: Report) -> str:
    """What is missing can be published again from its row; for what is there too often there is only an explanation."""
    missing = report.named.get(What.MISSING, [])
    if not missing:
        return "dovetail status EVENT_ID"
    if len(missing) <= _TYPED_MOST:
        which = " ".join(f"--id {found.id}" for found in missing)
        return f"dovetail replay {which} --reason …, which publishes from the outbox; or dovetail status EVENT_ID"
    created = [found.created_at.timestamp() for found in missing if found.created_at is not None]
    since, until = (time_text(int(at // MINUTE) * MINUTE) for at in (min(created), max(created) + MINUTE))
    return (
        f"dovetail replay --since {since} --until {until} --reason …, which publishes all of that time from the "
        "outbox, and an inbox takes nothing twice; or --id … of each that is missing"
    )


def words(what: What) -> str:
    """For a person."""
    return what.value.replace("_", " ")


def time_text(seconds: int) -> str:
    """RFC 3339 in UTC, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}"


def _count(report: Report, what: What) -> int:
    return sum(count for (_, _, kind), count in report.counts.items() if kind is what)


def _by_hour(*sides: Sums) -> Counter[tuple[str, int]]:
    found = Counter[tuple[str, int]]()
    for side in sides:
        for (topic, minute), one in side.items():
            found[topic, minute * MINUTE // HOUR] += one.events
    return found
