"""The books against the outbox, on the housekeeping's connection. `balance` judges; here is what it takes to ask.

A statement reads a piece of the outbox by its BRIN index, as much as can be read without being felt. What is kept by
the hour is read a little with each look, and all of it again after a rest of a hundred times as long as it took.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg

from dovetail_relay.balance import Balance, Difference, Mark, Side, as_json, from_json
from dovetail_relay.books import BUCKET_SECONDS, DAY, HOUR, NOTHING, Piece, hours_of, plus
from dovetail_relay.config import Settings
from dovetail_relay.errors import ConfigInvalid, StuckMessage
from dovetail_relay.logs import log
from dovetail_relay.nouns import Books, Checkpoint, Sum, parse_lsn
from dovetail_relay.retention import LEAVES, Session
from dovetail_relay.routing import router_of
from dovetail_relay.telemetry import LogEvent, Telemetry
from dovetail_schemas.sql import queries

# What one look may read of what is kept by the hour, and how long one statement for it should take.
_BUDGET_SECONDS: Final = 0.25
_STATEMENT_SECONDS: Final = (0.05, 0.2)
_REST_SECONDS: Final = 30.0
_REST_PER_WORK: Final = 100.0
# Marks that no checkpoint has come to yet.
_MARKS: Final = 16
# What has no route now: such rows are parked, or went where an earlier configuration sent them.
_NO_TOPIC: Final = "?"

_Sides = dict[int, Side]


class _Pass:
    """All that one checkpoint keeps by the hour, read piece by piece under one mark."""

    def __init__(self, books: Books, mark: Mark, kept_from: int) -> None:
        self.mark = mark
        self.pieces = [piece for piece in hours_of(books) if piece.start >= kept_from]
        self.sides = [Side() for _ in self.pieces]
        self.seconds = 0.0
        self._nth = 0
        self._at = self.pieces[0].start if self.pieces else 0

    def next_slice(self, width: int) -> tuple[int, int, int] | None:
        """(piece, from, to) of what is to be read now; None at the end."""
        if self._nth == len(self.pieces):
            return None
        piece, start = self.pieces[self._nth], self._at
        end = min(start + width, piece.end)
        return self._nth, start, end

    def take(self, nth: int, end: int, sides: _Sides, seconds: float) -> None:
        """What the outbox says of the slice that ends at `end`."""
        self.seconds += seconds
        for side in sides.values():
            self.sides[nth] = _both(self.sides[nth], side)
        self._at = end
        if end == self.pieces[nth].end:
            self._nth += 1
            self._at = self.pieces[self._nth].start if self._nth < len(self.pieces) else 0

    def result(self) -> list[tuple[Piece, Side]]:
        return list(zip(self.pieces, self.sides, strict=True))


class Comparison:
    """Of one reign, for the housekeeping's thread. Raises psycopg.Error where the server does not answer."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._relay = settings.relay.name
        self._retention_days = settings.outbox.retention_days
        self._router = router_of(settings)
        self._telemetry = telemetry
        self._clock = clock
        self._marks: deque[Mark] = deque(maxlen=_MARKS)
        self._pass: _Pass | None = None
        self._pass_due = 0.0
        self._width = 6
        self._told: Difference | None = None
        self._asked_before = False
        self.balance = Balance()

    def look(self, session: Session, durable: Checkpoint) -> None:
        """Compare what can be compared now, and tell the metric."""
        if not self._asked_before:
            self._ask_before(session)
        books = durable.books
        if books is None or durable.backfill is not None:
            return
        self._marks.append(_mark(session))
        covered = [mark for mark in self._marks if mark.lsn <= durable.end_lsn]
        if not covered:
            return
        mark = covered[-1]
        while self._marks[0] != mark:
            self._marks.popleft()
        kept_from = self._kept_from()
        self._look_at_buckets(session, mark, books, kept_from)
        self._look_at_hours(session, mark, books, kept_from)
        told = self._told
        if told is not None and told.end <= books.since and mark.bucket - told.end < DAY:
            # New books have begun behind it: nobody has found that it is well.
            self._telemetry.books(balanced=False)
            return
        self._tell(session)

    def _ask_before(self, session: Session) -> None:
        """A difference is not forgotten with the process that found it: an alert would end that nobody has answered."""
        found = session.execute(queries["books_known"], {"relay": self._relay}).fetchone()
        self._asked_before = True
        with suppress(ValueError, KeyError, TypeError):
            if found is not None:
                self._told = from_json(found["books_difference"])
                self.balance.remember(self._told)
                self._telemetry.books(balanced=False)

    def _kept_from(self) -> int:
        """What was created before may be gone, or go while it is read: where nothing happens the books grow old.

        The leaf of the day before it, into which a transaction over midnight has written, is whole too.
        """
        now = self._marks[-1].bucket
        return min(((now + HOUR) // DAY - self._retention_days + 1) * DAY, now // DAY * DAY)

    def _look_at_buckets(self, session: Session, mark: Mark, books: Books, kept_from: int) -> None:
        due = self.balance.due(books, mark, kept_from)
        if not due:
            return
        # One statement per day: a row's leaf tells when it was written, see `_sums`.
        found: _Sides = {}
        start, end = due[0], due[-1] + 1
        while start < end:
            stop = min(end, (start // DAY + 1) * DAY)
            found |= self._sums(session, mark, start, stop)
            start = stop
        for at in due:
            self.balance.judge_bucket(books, mark, at, found.get(at, Side()))

    def _look_at_hours(self, session: Session, mark: Mark, books: Books, kept_from: int) -> None:
        if self._pass is None:
            if self._clock() < self._pass_due and not self.balance.hurry:
                return
            self._pass = _Pass(books, mark, kept_from)
        now = self._pass
        until = self._clock() + _BUDGET_SECONDS
        while (piece := now.next_slice(self._width)) is not None:
            nth, start, end = piece
            began = self._clock()
            try:
                sides = self._sums(session, now.mark, start, end)
            except psycopg.errors.QueryCanceled:
                self._width = max(self._width // 4, 1)
                raise
            took = self._clock() - began
            now.take(nth, end, sides, took)
            if took < _STATEMENT_SECONDS[0]:
                self._width = min(self._width * 2, HOUR)
            elif took > _STATEMENT_SECONDS[1]:
                self._width = max(self._width // 2, 1)
            if self._clock() > until:
                return
        self.balance.judge_hours(now.mark, now.result())
        self._pass = None
        self._pass_due = self._clock() + max(_REST_SECONDS, now.seconds * _REST_PER_WORK)

    def _sums(self, session: Session, mark: Mark, start: int, end: int) -> _Sides:
        """What the outbox holds of each bucket from `start` up to `end`, all of one day.

        The books count no event that was dated further ahead than tomorrow when it was written. Its row stands in the
        leaf of that day, and is not counted here either.
        """
        day = start // DAY
        asked = {
            "relay": self._relay,
            "snapshot": mark.snapshot,
            "start": start * BUCKET_SECONDS,
            "end": end * BUCKET_SECONDS,
            "leaves": [(day + more) % LEAVES for more in (-1, 0, 1)],
        }
        sides: _Sides = {}
        for row in session.execute(queries["books_sums"], asked):
            one = Sum(row["events"], int(row["ids"], 2))
            side = Side({self._topic(row["aggregatetype"]): one}) if row["settled"] else Side({}, one)
            sides[row["at"]] = _both(sides.get(row["at"], Side()), side)
        return sides

    def _topic(self, aggregatetype: str) -> str:
        try:
            return self._router.target(aggregatetype).topic
        except (StuckMessage, ConfigInvalid):
            return _NO_TOPIC

    def _tell(self, session: Session) -> None:
        balanced = self.balance.balanced()
        if balanced is None:
            return
        self._telemetry.books(balanced=balanced)
        wrong = self.balance.wrong()
        if wrong != self._told:
            kept = None if wrong is None else json.dumps(as_json(wrong))
            session.execute(queries["books_remember"], {"relay": self._relay, "difference": kept})
        if wrong is None:
            if self._told is not None:
                log(LogEvent.BOOKS_BALANCED, "outbox and topics agree again, as far as the books go back")
        elif self._told is None:
            missing = "" if wrong.missing is None else f"; by its sum it is event {wrong.missing}"
            log(
                LogEvent.BOOKS_UNBALANCED,
                f"of the events created from {wrong.since()} to {wrong.until()} the outbox holds {wrong.kept} that are "
                f"due, and {wrong.booked} were published{missing}",
                topic=", ".join(wrong.topics),
                outbox=wrong.kept,
                published=wrong.booked,
                next=f"dovetail reconcile --since {wrong.since()} --until {wrong.until()}",
            )
        self._told = wrong


def _mark(session: Session) -> Mark:
    found = session.execute(queries["books_mark"]).fetchone()
    assert found is not None  # noqa: S101 - the statement always answers with one row
    return Mark(found["snapshot"], parse_lsn(found["lsn"]), found["at"])


def _both(one: Side, other: Side) -> Side:
    settled = dict(one.settled)
    for topic, found in other.settled.items():
        settled[topic] = plus(settled.get(topic, NOTHING), found)
    return Side(settled, plus(one.young, other.young))
