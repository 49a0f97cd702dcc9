"""The books: how many events went out and an order-independent sum of their ids, per topic and time.

A sum is a count and the XOR of the 128-bit ids. Any set of events has the same one in any order, so what streamed and
what stands in the table can be compared without either being sorted or remembered; one event that is missing, doubled
or exchanged shows. The checkpoint carries the books, in the Kafka transaction of the events themselves: they are exact
whatever dies.

Events are booked by their own `created_at`, in buckets of ten seconds for the last minute, then in hours, then in one
total per topic, so that the checkpoint stays small. Time here is the stream's: the commit times that pass by.
"""

from __future__ import annotations

import json
from binascii import unhexlify
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from dovetail_relay.nouns import Books, Record, Sum, TopicBooks

NOTHING: Final = Sum(0, 0)
BUCKET_SECONDS: Final = 10
HOUR: Final = 3600 // BUCKET_SECONDS
# A check comes every ten seconds, and needs a bucket twice: so many stay apart.
FINE: Final = 6
# Of these the books are kept by the hour until they are verified; two are kept in any case, for late rows.
HOURS: Final = 24
_LATE_HOURS: Final = 1
# More topics than these share one entry: the sum of all is what is compared, a topic only says where to look.
TOPICS: Final = 8
OTHERS: Final = "*"
# Buckets ahead of the stream's time, per topic. What a service dates further ahead goes into its hour at once, and what
# lies beyond tomorrow into the total.
_AHEAD: Final = 12
DAY: Final = 24 * HOUR

# What a batch adds: (topic, bucket) -> sum.
Delta = Mapping[tuple[str, int], Sum]

_PG_EPOCH_SECONDS: Final = 946_684_800
_topic: Final = itemgetter(Record._fields.index("topic"))
# `2026-01-31T12:00:0` of the `time` header: all that a bucket needs to know.
_BUCKET_TEXT: Final = 18
# From the seconds to the years: what differs is found early.
_BUCKET_PLACES: Final = tuple(range(_BUCKET_TEXT - 1, -1, -1))
# The places of `id` and `time` among a record's headers.
_ID, _TIME = 0, 2


class Piece(NamedTuple):
    """What the books say of the events created from bucket `start` up to `end`, by topic."""

    start: int
    end: int
    topics: dict[str, Sum]

    def total(self) -> Sum:
        """Of all topics: an event that was sent to another topic than its route names today is not lost."""
        return total_of(self.topics.values())


# -- sums -------------------------------------------------------------------------------------------------------------


def plus(one: Sum, other: Sum) -> Sum:
    """Of both together."""
    return Sum(one.events + other.events, one.ids ^ other.ids)


def minus(one: Sum, other: Sum) -> Sum:
    """Of `one` without `other`."""
    return Sum(one.events - other.events, one.ids ^ other.ids)


def total_of(sums: Iterable[Sum]) -> Sum:
    """Of all of them."""
    total = NOTHING
    for one in sums:
        total = plus(total, one)
    return total


def sum_of(ids: Sequence[bytes]) -> Sum:
    """Of ids as the `id` header carries them, 36 characters each. Raises ValueError for what is no hex."""
    raw = unhexlify(b"".join(ids).translate(None, b"-"))
    if len(raw) != 16 * len(ids):
        raise ValueError("not all of these are UUIDs")
    return Sum(len(ids), _folded(raw))


def _folded(raw: bytes) -> int:
    # The halves of one big number onto each other, again and again: no loop over the ids.
    value, rows = int.from_bytes(raw, "big"), len(raw) // 16
    while rows > 1:
        half = (rows + 1) // 2
        value = (value >> half * 128) ^ (value & ((1 << half * 128) - 1))
        rows = half
    return value


# -- what a batch adds ------------------------------------------------------------------------------------------------


def tally(records: Sequence[Record]) -> dict[tuple[str, int], Sum]:
    """What `records` add. On the hot path: nothing is done per row but to fetch what is looked at.

    Nearly all rows of a batch are of one bucket, and often of one topic: that is made sure of for all at once.
    """
    if not records:
        return {}
    topic = records[0][0]
    if list(map(_topic, records)).count(topic) == len(records):
        return {(topic, bucket): found for bucket, found in _by_bucket(records)}
    groups: dict[str, list[Record]] = {}
    for record in records:
        try:
            groups[record[0]].append(record)
        except KeyError:
            groups[record[0]] = [record]
    return {(topic, bucket): found for topic, group in groups.items() for bucket, found in _by_bucket(group)}


def _by_bucket(records: Sequence[Any]) -> Iterator[tuple[int, Sum]]:
    # By index: unpacking a named tuple takes twice as long.
    ids = [record[3][_ID][1] for record in records]
    times = [record[3][_TIME][1] for record in records]
    joined, rows = b"".join(times), len(records)
    width, first = len(times[0]), times[0][:_BUCKET_TEXT]
    if len(joined) == rows * width and all(joined[at::width].count(first[at]) == rows for at in _BUCKET_PLACES):
        yield _bucket(first), sum_of(ids)
        return
    groups = defaultdict(list)
    for event_id, time in zip(ids, times, strict=True):
        groups[time[:_BUCKET_TEXT]].append(event_id)
    for time, group in groups.items():
        yield _bucket(time), sum_of(group)


@lru_cache(maxsize=64)
def _bucket(text: bytes) -> int:
    moment = datetime.fromisoformat(text.decode("ascii") + "0").replace(tzinfo=UTC)
    return int(moment.timestamp()) // BUCKET_SECONDS


def bucket_of(commit_us: int) -> int:
    """The bucket of a commit's time, µs since 2000-01-01 as the stream carries it."""
    return (commit_us // 1_000_000 + _PG_EPOCH_SECONDS) // BUCKET_SECONDS


# -- the books --------------------------------------------------------------------------------------------------------


def begin(bucket: int) -> Books:
    """Books that know nothing yet: exact for what is created after `bucket`."""
    return Books(bucket + 1, bucket + 1, {})


def add(books: Books, delta: Delta, *, bucket: int, verified_hour: int = 0) -> Books:
    """The books after a batch that was committed in `bucket`, 0 where unknown. Hours below `verified_hour` may go."""
    since, fine_from = _boundaries(books, bucket, verified_hour)
    if not delta and since == books.since and fine_from == books.fine_from:
        return books
    topics = dict(books.topics)
    added: dict[str, dict[int, Sum]] = {}
    for (topic, at), found in delta.items():
        name = topic if topic in topics or len(topics) < TOPICS else OTHERS
        topics.setdefault(name, _NO_BOOKS)
        of_topic = added.setdefault(name, {})
        of_topic[at] = plus(of_topic.get(at, NOTHING), found)
    coarse = books.coarse
    hour = fine_from // HOUR
    if hour != books.fine_from // HOUR and any(hour in of.hours for of in books.topics.values()):
        # What was dated ahead lies in this hour.
        coarse = hour
    for name, old in topics.items():
        new = added.get(name)
        if new or _stale(old, since, fine_from):
            topics[name], ahead = _topic_books(old, new or {}, since, fine_from)
            coarse = hour if hour in ahead else coarse
    return Books(since, fine_from, topics, coarse)


def _boundaries(books: Books, bucket: int, verified_hour: int) -> tuple[int, int]:
    if bucket and books.since - bucket > HOURS * HOUR:
        # The server's clock was far ahead and has been put right. What was booked then stays in its hours, ahead.
        return bucket + 1, bucket + 1
    fine_from = max(books.fine_from, bucket - FINE + 1)
    hour = fine_from // HOUR
    since = max(books.since, min(verified_hour, hour - _LATE_HOURS) * HOUR, (hour - HOURS + 1) * HOUR)
    return since, fine_from


def _stale(old: TopicBooks, since: int, fine_from: int) -> bool:
    return any(at < fine_from for at in old.fine) or any((hour + 1) * HOUR <= since for hour in old.hours)


def _topic_books(
    old: TopicBooks, added: Mapping[int, Sum], since: int, fine_from: int
) -> tuple[TopicBooks, Sequence[int]]:
    """The new ones, and the hours that what lies too far ahead has been put into."""
    total, hours, fine = old.total, dict(old.hours), dict(old.fine)
    beyond = (fine_from // DAY + 2) * DAY
    for at, found in added.items():
        if at < beyond:
            fine[at] = plus(fine.get(at, NOTHING), found)
        else:
            total = plus(total, found)
    for at in [at for at in fine if at < fine_from]:
        found = fine.pop(at)
        if at < since:
            total = plus(total, found)
        else:
            hours[at // HOUR] = plus(hours.get(at // HOUR, NOTHING), found)
    for hour in [hour for hour in hours if (hour + 1) * HOUR <= since]:
        total = plus(total, hours.pop(hour))
    ahead = sorted(fine)[FINE + _AHEAD :]
    for at in ahead:
        hours[at // HOUR] = plus(hours.get(at // HOUR, NOTHING), fine.pop(at))
    return TopicBooks(total, hours, fine, _topic_text(total, hours, fine)), [at // HOUR for at in ahead]


def hours_of(books: Books) -> Iterator[Piece]:
    """What is kept by the hour; the first one may begin late and the last one end early."""
    for hour in range(books.since // HOUR, -(-books.fine_from // HOUR)):
        start, end = max(hour * HOUR, books.since), min((hour + 1) * HOUR, books.fine_from)
        # Of an hour that is not over, a part is only known where nothing that lies ahead was put into it.
        if start < end and (end == (hour + 1) * HOUR or hour != books.coarse):
            yield Piece(start, end, {name: of.hours[hour] for name, of in books.topics.items() if hour in of.hours})


def fine_of(books: Books, bucket: int) -> Piece | None:
    """What is kept of one bucket; None where it is not kept by itself, or not all of it."""
    hour = bucket // HOUR
    ahead = hour > books.fine_from // HOUR and any(hour in of.hours for of in books.topics.values())
    if bucket < books.fine_from or hour == books.coarse or ahead:
        return None
    return Piece(bucket, bucket + 1, {name: of.fine[bucket] for name, of in books.topics.items() if bucket in of.fine})


# -- as text ----------------------------------------------------------------------------------------------------------


def text(books: Books | None) -> str:
    """JSON, as the checkpoint carries it. What has not changed is not written anew."""
    if books is None:
        return "null"
    topics = ",".join(f"{json.dumps(name)}:{of.text}" for name, of in books.topics.items())
    return f'{{"since":{books.since},"fine_from":{books.fine_from},"coarse":{books.coarse},"topics":{{{topics}}}}}'


def parse(found: Any) -> Books | None:
    """The inverse, of what JSON made of it. Raises ValueError, KeyError or TypeError for anything else."""
    if not found:
        return None
    topics = {}
    for name, of in found["topics"].items():
        total, hours, fine = _sum(of["total"]), _sums(of["hours"]), _sums(of["fine"])
        topics[str(name)] = TopicBooks(total, hours, fine, _topic_text(total, hours, fine))
    return Books(int(found["since"]), int(found["fine_from"]), topics, int(found["coarse"]))


def _topic_text(total: Sum, hours: Mapping[int, Sum], fine: Mapping[int, Sum]) -> str:
    return f'{{"total":{_sum_text(total)},"hours":{_sums_text(hours)},"fine":{_sums_text(fine)}}}'


def _sums_text(sums: Mapping[int, Sum]) -> str:
    return "{" + ",".join(f'"{at}":{_sum_text(found)}' for at, found in sums.items()) + "}"


def _sum_text(found: Sum) -> str:
    return f'[{found.events},"{found.ids:032x}"]'


def _sums(found: Mapping[str, Any]) -> dict[int, Sum]:
    return {int(at): _sum(pair) for at, pair in found.items()}


def _sum(pair: Any) -> Sum:
    count, ids = pair
    return Sum(int(count), int(ids, 16))


_NO_BOOKS: Final = TopicBooks(NOTHING, {}, {}, _topic_text(NOTHING, {}, {}))
