"""A PostgreSQL of a few dozen lines: a log of committed transactions, one slot, one advisory lock, one walsender.

What it gets right is what the relay's promise rests on: commit order, a commit record that may start where the one
before ended, transactions cut by the wire at any row, keepalives that never overtake data, a slot that skips what was
confirmed even when asked for it, a crash that forgets confirmed positions, a promotion that ends the log early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from simulation.rows import SILENT
from simulation.tables import Tables

from dovetail_relay.errors import StreamEnded
from dovetail_relay.nouns import Lsn, RelayRow, ServerFacts, TimelineSwitch

START: Final = Lsn(100)
# What a read brings: so many frames, and of rows so many in one. In the wire each has a frame of its own.
MOST_FRAMES: Final = 6
MOST_ROWS: Final = 4

NEW: Final = RelayRow(
    name="sim",
    slot="sim",
    system_id="7",
    consistent_point=START,
    snapshot=None,
    epoch=1,
    publication_fingerprint="p",
    started=False,
)
# The snapshot of a slot is how many rows were there before it.
_FACTS: Final = ServerFacts(
    system_id="7",
    timeline=1,
    database="shop",
    in_recovery=False,
    wal_lsn=Lsn(1 << 40),
    slot_found=True,
    slot_plugin="pgoutput",
    slot_database="shop",
    slot_lost=False,
    slot_temporary=False,
    confirmed_flush=START,
    publication_fingerprint="p",
)


class Transaction(NamedTuple):
    """The commit record starts at `final_lsn` and ends at `end_lsn`."""

    final_lsn: Lsn
    end_lsn: Lsn
    rows: list[int]
    xid: int
    # By a publication that has the outbox in it.
    sent: bool = True


class Begin(NamedTuple):
    final_lsn: Lsn


class Commit(NamedTuple):
    end_lsn: Lsn


class Rows(NamedTuple):
    rows: list[int]


class Keepalive(NamedTuple):
    wal_end: Lsn


Frame = Begin | Commit | Rows | Keepalive


class Database:
    """`chance` gives numbers in [0, 1): the only source of what happens."""

    def __init__(self, chance: Callable[[], float], *, rows_before_slot: int) -> None:
        self._chance = chance
        self.before_slot = list(range(rows_before_slot))
        self._next_row = rows_before_slot
        self.row = replace(NEW, snapshot=str(rows_before_slot)) if rows_before_slot else NEW
        self.tables = Tables(self)
        self.log: list[Transaction] = []
        self._next_xid = 1
        # A transaction that was begun earlier than others that have ended.
        self._straggler: int | None = None
        self.insert_lsn = START
        self.timeline = self._timelines = 1
        self.history: tuple[TimelineSwitch, ...] = ()
        self.confirmed = START
        self._acknowledged = [START]
        self.slot_found = True
        self.rebased_lsn = START
        # PostgreSQL skips what lies before the start that was asked for. The relay's own rule must not lean on it.
        self.skips_to_start = chance() < 0.8
        self.leader: object | None = None
        self.walsender: Stream | None = None

    # -- what services do ---------------------------------------------------------------------------------------------

    def commit(self, rows: int) -> list[int]:
        """One more transaction. What was rolled back, and other tables' rows, only move the position."""
        first, self._next_row = self._next_row, self._next_row + rows
        taken = list(range(first, first + rows))
        final = Lsn(self.insert_lsn + int(self._chance() * 3))
        self.insert_lsn = Lsn(final + 1 + int(self._chance() * 2))
        sent = self.tables.ground.fit
        self.log.append(Transaction(final, self.insert_lsn, taken, self._ended_xid(), sent))
        return taken

    def _ended_xid(self) -> int:
        """Transactions do not end in the order in which they were begun."""
        roll = self._chance()
        if self._straggler is None and roll < 0.3:
            self._straggler, self._next_xid = self._next_xid, self._next_xid + 1
        elif self._straggler is not None and roll < 0.5:
            xid, self._straggler = self._straggler, None
            return xid
        self._next_xid += 1
        return self._next_xid - 1

    def xmin(self) -> int:
        """Each transaction below it has ended."""
        return self._next_xid if self._straggler is None else self._straggler

    def other_work(self) -> None:
        """WAL that has nothing for us: another database, a rolled-back transaction."""
        self.insert_lsn = Lsn(self.insert_lsn + 1 + int(self._chance() * 3))

    def published(self) -> list[int]:
        """The rows that must be in the topic, in commit order."""
        return self.before_slot + [n for one in self.log for n in one.rows if n % SILENT != SILENT - 1]

    def unpublished(self, row: RelayRow, seen: set[int], next_seq: int) -> list[int]:
        """`dovetail.unpublished`: rows from the horizon on, visible in the slot's snapshot, and nowhere else."""
        visible, horizon = int(row.snapshot or 0), row.recovery_horizon or 0
        kept = self.tables.answered_for()
        rows = self._outbox(horizon, visible)
        return [n for n in rows if next_seq <= n and n not in seen and n not in kept]

    def outbox(self, horizon: int, visible: int) -> set[int]:
        """The rows of transactions from `horizon` on that a snapshot sees."""
        return set(self._outbox(horizon, visible))

    def _outbox(self, horizon: int, visible: int) -> list[int]:
        rows = self.before_slot if horizon == 0 else []
        rows = rows + [n for one in self.log if one.xid >= horizon for n in one.rows if n % SILENT != SILENT - 1]
        return [n for n in rows if n < visible and n not in self.tables.ground.gone]

    def unsent(self) -> set[int]:
        """Rows that no stream brings."""
        return {n for one in self.log if not one.sent for n in one.rows}

    # -- what the relay asks ------------------------------------------------------------------------------------------

    def facts(self) -> ServerFacts:
        return replace(
            _FACTS, timeline=self.timeline, wal_lsn=self.insert_lsn, confirmed_flush=self.confirmed,
            slot_found=self.slot_found, publication_fingerprint=self.tables.ground.publication,
        )  # fmt: skip

    def recorded(self, fingerprint: str) -> None:
        """The relay's row follows what an operator has accepted, and a promotion has taken back."""
        if self.row.publication_fingerprint != fingerprint:
            self.row = replace(self.row, publication_fingerprint=fingerprint)

    def start_replication(self, start: Lsn) -> Stream | None:
        """None where the slot is busy. A start below the confirmed position is moved up to it, without a word."""
        if not self.slot_found:
            raise StreamEnded("the slot is gone")
        if self.walsender is not None:
            return None
        begins_at = max(start, self.confirmed) if self.skips_to_start else self.confirmed
        self.walsender = Stream(self, begins_at, self._chance)
        return self.walsender

    def end_stream(self) -> None:
        if self.walsender is not None:
            self.walsender.ended = True
            self.walsender = None

    def confirm(self, lsn: Lsn) -> None:
        if lsn > self.confirmed:
            self.confirmed = lsn
            self._acknowledged.append(lsn)

    def drop_slot(self) -> None:
        self.end_stream()
        self.slot_found = False

    def make_slot(self) -> None:
        """It waits for whoever has begun before: so nothing that is open now was begun before it."""
        if self._straggler is not None:
            self.other_work()
            self._straggler = None
        self.slot_found = True
        self.confirmed = self.insert_lsn
        self._acknowledged = [self.insert_lsn]

    def rows_before(self, lsn: Lsn) -> int:
        return next((one.rows[0] for one in self.log if one.end_lsn > lsn and one.rows), self._next_row)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def crash(self) -> bool:
        """All sessions end, and the slot wakes at any position that it ever had. True if it went back."""
        self.end_stream()
        self.leader = None
        if not self._acknowledged:
            return False  # a slot that was lost
        kept = 1 + int(self._chance() * len(self._acknowledged))
        del self._acknowledged[kept:]
        before, self.confirmed = self.confirmed, self._acknowledged[-1]
        return self.confirmed < before

    def promote(self, switch: Lsn) -> None:
        """A standby takes over that has the log up to `switch` and the slot's position up to there.

        A timeline ends where a record does: half a commit record is none.
        """
        self.crash()
        switch = min([switch, *(lost.final_lsn for lost in self.log if lost.final_lsn < switch < lost.end_lsn)])
        self.log = [transaction for transaction in self.log if transaction.end_lsn <= switch]
        self.tables.go_back(switch)
        self._acknowledged = [lsn for lsn in self._acknowledged if lsn <= switch]
        if self._acknowledged:
            self.confirmed = self._acknowledged[-1]
        else:
            self.slot_found = False
        # A standby that lags behind an earlier switch branches off the timeline that was there then.
        later = [known.timeline for known in self.history if known.switch_lsn > switch]
        kept = tuple(known for known in self.history if known.switch_lsn <= switch)
        self.history = (*kept, TimelineSwitch(later[0] if later else self.timeline, switch))
        self._timelines += 1
        self.timeline = self._timelines
        self.insert_lsn = switch


class Stream:
    """One walsender. `read` gives what the socket happens to hold; raises StreamEnded once the server has ended it."""

    __slots__ = ("_at", "_chance", "_database", "_row", "ended", "received")

    def __init__(self, database: Database, start: Lsn, chance: Callable[[], float]) -> None:
        self._database = database
        self._chance = chance
        self.received = start
        self.ended = False
        self._row = -1  # -1 between transactions
        self._at = 0
        while self._at < len(database.log) and database.log[self._at].final_lsn < start:
            self._at += 1

    def read(self, limit: int) -> list[Frame]:
        if self.ended:
            raise StreamEnded("the server ended the stream")
        frames: list[Frame] = []
        # None at all now and then: there is more, and it is still on its way.
        for _ in range(min(limit, int(self._chance() * (MOST_FRAMES + 1)))):
            frame = self._next(1 if limit == 1 else MOST_ROWS)
            if frame is None:
                break
            frames.append(frame)
        return frames

    def report(self, lsn: Lsn) -> None:
        if not self.ended:
            self._database.confirm(lsn)

    def close(self) -> None:
        if not self.ended:
            self._database.end_stream()

    def _next(self, most: int) -> Frame | None:
        database, chance = self._database, self._chance
        while self._row < 0 and self._at < len(database.log) and not database.log[self._at].sent:
            self._at += 1  # empty, as far as this stream goes
        at_end = self._at >= len(database.log)
        if chance() < 0.15:
            return self._keepalive(at_end=at_end)
        if at_end:
            return None
        transaction = database.log[self._at]
        if self._row < 0:
            self._row = 0
            return Begin(transaction.final_lsn)
        if self._row < len(transaction.rows):
            first = self._row
            self._row += 1 + int(chance() * most)
            return Rows(transaction.rows[first : self._row])
        self._row = -1
        self._at += 1
        self.received = max(self.received, transaction.end_lsn)
        return Commit(transaction.end_lsn)

    def _keepalive(self, *, at_end: bool) -> Keepalive:
        """Up to where everything was sent. Inside a transaction the protocol promises nothing: any position goes."""
        database = self._database
        wal_end = database.insert_lsn if at_end or self._row >= 0 else database.log[self._at].final_lsn
        self.received = max(self.received, wal_end)
        return Keepalive(wal_end)
