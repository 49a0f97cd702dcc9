"""Whether the books and the outbox agree: which pieces are compared, and when a difference is one. Pure.

The two are never still, and nothing is stopped to compare them. A mark is a snapshot of the database and a position
that lies behind all that it sees. Once a durable checkpoint has come to that position, every row that the snapshot sees
is in its books, or parked. Other rows are young: they may be in the books or not.

The last minute is compared bucket by bucket as soon as each is over, which finds a loss quickly; what is kept by the
hour is compared again and again, which finds it in what came late. A difference counts when a second look, under a
later mark, finds the very same: what was on its way between two tables makes another one each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from dovetail_relay.books import BUCKET_SECONDS, HOUR, NOTHING, OTHERS, Piece, fine_of, minus, plus, total_of
from dovetail_relay.nouns import Books, Lsn, Sum

# After a long silence the buckets of it are looked at so many at a time.
_AT_ONCE: Final = 360


class Mark(NamedTuple):
    """The database at one moment: what `snapshot` sees was committed at or below `lsn`. `bucket` is its clock's."""

    snapshot: str
    lsn: Lsn
    bucket: int

    def outlived(self, earlier: Mark) -> bool:
        """Whether all transactions that were under way at `earlier` were over by now."""
        return int(self.snapshot.split(":")[0]) >= int(earlier.snapshot.split(":")[1])


class Side(NamedTuple):
    """What the outbox says of one piece, without what is parked: settled rows by topic, and young ones."""

    settled: Mapping[str, Sum] = {}
    young: Sum = NOTHING


class Difference(NamedTuple):
    """What is wrong with the events created from bucket `start` up to `end`. `missing`: where it is only one."""

    start: int
    end: int
    topics: tuple[str, ...]
    booked: int
    kept: int
    missing: UUID | None

    def since(self) -> str:
        return _moment(self.start)

    def until(self) -> str:
        return _moment(self.end)


class _Said(StrEnum):
    BALANCED = "balanced"
    WAITS = "waits"  # young rows, of which nobody can say more now
    DOUBTED = "doubted"
    DIFFERS = "differs"


class _Doubt(NamedTuple):
    """A difference that was seen first under `mark`."""

    mark: Mark
    difference: Sum


class Balance:
    """What one leader knows of it. The next one looks at all that the books keep, and is told what was wrong."""

    def __init__(self) -> None:
        self._next_bucket = 0
        self._open: dict[int, _Doubt | None] = {}
        self._doubts: dict[int, _Doubt] = {}
        self._wrong_buckets: dict[int, Difference] = {}
        self._wrong_hours: dict[int, Difference] = {}
        self._looked = False
        # A difference was seen that only the look at its hour can tell more of.
        self.hurry = False
        self.verified_hour = 0

    def wrong(self) -> Difference | None:
        """The oldest of the differences that count."""
        found = [*self._wrong_buckets.values(), *self._wrong_hours.values()]
        return min(found, default=None)

    def balanced(self) -> bool | None:
        """None while nothing can be said, or nothing new."""
        if self._wrong_buckets or self._wrong_hours:
            return False
        doubts = self._doubts or any(doubt is not None for doubt in self._open.values())
        return None if doubts or not self._looked else True

    def remember(self, known: Difference) -> None:
        """What the leader before has found counts until its time agrees, or leaves the books."""
        if known.end - known.start == 1:
            self._wrong_buckets.setdefault(known.start, known)
        else:
            self._wrong_hours.setdefault(known.start // HOUR, known)

    # -- the last minute ----------------------------------------------------------------------------------------------

    def due(self, books: Books, mark: Mark, kept_from: int) -> list[int]:
        """The buckets to compare: those that are over and were not, and those that did not agree.

        What was created before `kept_from` may have been emptied from the outbox.
        """
        self._forget(books, max(books.since, kept_from))
        # The clock may have been put back.
        start = max(books.fine_from, kept_from, min(self._next_bucket, mark.bucket))
        self._next_bucket = max(start, min(mark.bucket, start + _AT_ONCE))
        for at in range(start, self._next_bucket):
            if fine_of(books, at) is not None:
                self._open.setdefault(at)
        return sorted(self._open)

    def judge_bucket(self, books: Books, mark: Mark, at: int, side: Side) -> None:
        """One bucket that was due, and what the outbox says of it."""
        piece = fine_of(books, at)
        if piece is None:
            return
        said, doubt = _said(piece, side, mark, self._open.get(at))
        if said is _Said.DIFFERS:
            self._wrong_buckets.setdefault(at, _difference(piece, side))
        elif said is _Said.BALANCED:
            self._open.pop(at, None)
            self._wrong_buckets.pop(at, None)
            return
        self._open[at] = doubt

    def _forget(self, books: Books, since: int) -> None:
        for at in [at for at in self._open if at < since or fine_of(books, at) is None]:
            self.hurry = self._open.pop(at) is not None or self.hurry
        # The books may begin inside an hour: what they keep of it is a piece like any other.
        hour = since // HOUR
        self._wrong_buckets = {at: found for at, found in self._wrong_buckets.items() if at >= since}
        self._wrong_hours = {at: found for at, found in self._wrong_hours.items() if at >= hour}
        self._doubts = {at: found for at, found in self._doubts.items() if at >= hour}

    # -- what is kept by the hour -------------------------------------------------------------------------------------

    def judge_hours(self, mark: Mark, looked_at: Iterable[tuple[Piece, Side]]) -> None:
        """All that the books of one checkpoint kept by the hour, in order, and what the outbox says of it."""
        self._looked, self.hurry = True, False
        unbroken = True
        for piece, side in looked_at:
            hour = piece.start // HOUR
            said, doubt = _said(piece, side, mark, self._doubts.pop(hour, None))
            if doubt is not None:
                self._doubts[hour] = doubt
            if said is _Said.DIFFERS:
                self._wrong_hours.setdefault(hour, _difference(piece, side))
            elif said is _Said.BALANCED:
                self._wrong_hours.pop(hour, None)
                for at in [at for at in self._wrong_buckets if piece.start <= at < piece.end]:
                    del self._wrong_buckets[at]
            self.hurry = self.hurry or said is _Said.DOUBTED
            unbroken = unbroken and said is _Said.BALANCED and piece.end == (hour + 1) * HOUR
            if unbroken:
                self.verified_hour = max(self.verified_hour, hour + 1)


def as_json(difference: Difference) -> dict[str, Any]:
    """As the database keeps it."""
    missing = None if difference.missing is None else str(difference.missing)
    return {**difference._asdict(), "topics": list(difference.topics), "missing": missing}


def from_json(kept: Mapping[str, Any]) -> Difference:
    """The inverse. Raises ValueError, KeyError or TypeError for anything else."""
    missing = None if kept["missing"] is None else UUID(kept["missing"])
    start, end, booked, there = (int(kept[name]) for name in ("start", "end", "booked", "kept"))
    return Difference(start, end, tuple(map(str, kept["topics"])), booked, there, missing)


def _said(piece: Piece, side: Side, mark: Mark, before: _Doubt | None) -> tuple[_Said, _Doubt | None]:
    booked, settled = piece.total(), total_of(side.settled.values())
    if booked == plus(settled, side.young):
        return _Said.BALANCED, None
    if booked == settled or side.young != NOTHING:
        return _Said.WAITS, before
    difference = minus(booked, settled)
    if before is None or before.difference != difference:
        return _Said.DOUBTED, _Doubt(mark, difference)
    # A commit streams a moment before others see it, and while a synchronous standby is waited for: what is in the
    # books and not in the table is nothing before whoever was under way is over.
    waits = difference.events >= 0 and not mark.outlived(before.mark)
    return (_Said.DOUBTED if waits or mark is before.mark else _Said.DIFFERS), before


def _difference(piece: Piece, side: Side) -> Difference:
    kept: dict[str, Sum] = {}
    for topic, found in side.settled.items():
        name = OTHERS if OTHERS in piece.topics and topic not in piece.topics else topic
        kept[name] = plus(kept.get(name, NOTHING), found)
    names = sorted({*piece.topics, *kept})
    topics = tuple(name for name in names if piece.topics.get(name, NOTHING) != kept.get(name, NOTHING))
    booked, total = piece.total(), total_of(kept.values())
    difference = minus(booked, total)
    missing = UUID(int=difference.ids) if difference.events == -1 else None
    return Difference(piece.start, piece.end, topics, booked.events, total.events, missing)


def _moment(bucket: int) -> str:
    return datetime.fromtimestamp(bucket * BUCKET_SECONDS, UTC).isoformat().replace("+00:00", "Z")
