"""The only arithmetic on progress: what was taken in, where a batch may be cut, and how far that brings the checkpoint.

Pure and single-threaded. The stream feeds it (`begin`, `add`, `commit`, `keepalive`); the pipeline takes batches out
(`seal`). Rules it keeps:

* a batch ends at a commit, or inside one transaction that alone fills it; then `end_lsn` stays and `part` moves;
* a transaction whose `final_lsn` lies before the checkpoint was published before: it is dropped, known before its
  first row; the rows of a partly published one are dropped up to `part.next_index`;
* a row that is parked keeps its place among the records: a key that is let go while its rows are still here sends them
  where they would have gone;
* a keepalive's position counts only while nothing is open, nothing waits and no transaction is partly published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dovetail_relay.nouns import Batch, Hold, Lsn, Parked, ParkedState, Part, Record


class Ledger:
    """Rows taken in and not yet handed out. `rows` and `bytes` bound it: over them the pipeline stops reading."""

    __slots__ = (
        "_commit_us",
        "_cut_bytes",
        "_cut_commit_us",
        "_cut_lsn",
        "_cut_parked",
        "_cut_rows",
        "_cut_transactions",
        "_end_lsn",
        "_open",
        "_parked",
        "_part",
        "_records",
        "bytes",
        "keepalive_lsn",
        "next_index",
        "oldest_commit_us",
        "skip_rows",
        "skipping",
    )

    def __init__(self, end_lsn: Lsn, part: Part | None) -> None:
        self._end_lsn = end_lsn  # the end that the next batch starts from, durable or under way
        self._part = part
        self._records: list[Record] = []
        # Each with the number of records that stand before it.
        self._parked: list[tuple[int, Parked]] = []
        self.bytes = 0
        self._open: Lsn | None = None
        self.next_index = 0  # of the next row of the open transaction
        self.skip_rows = 0  # so many of its first rows were published before
        self._commit_us = 0
        self._cut_rows = self._cut_parked = self._cut_bytes = self._cut_transactions = self._cut_commit_us = 0
        self.oldest_commit_us = 0  # of the oldest transaction that waits, µs since 2000-01-01; 0 when none does
        self._cut_lsn: Lsn | None = None
        self.keepalive_lsn: Lsn = end_lsn
        self.skipping = False

    @property
    def rows(self) -> int:
        """Rows taken in and not yet sealed, parked ones included."""
        return len(self._records) + len(self._parked)

    @property
    def in_transaction(self) -> bool:
        """Whether the stream stands between a Begin and its Commit."""
        return self._open is not None

    @property
    def commit_lsn(self) -> Lsn:
        """`Begin.final_lsn` of the open transaction; only between a Begin and its Commit."""
        if self._open is None:
            raise RuntimeError("no transaction is open")
        return self._open

    @property
    def cut_ready(self) -> bool:
        """Whether at least one whole transaction waits."""
        return self._cut_lsn is not None

    def begin(self, final_lsn: Lsn, commit_us: int) -> bool:
        """A transaction starts. False: it was published before, its rows are to be dropped undecoded."""
        self._open = final_lsn
        self.next_index = 0
        self._commit_us = commit_us
        self.skipping = final_lsn < self._end_lsn
        part = self._part
        self.skip_rows = part.next_index if part is not None and part.commit_lsn == final_lsn else 0
        return not self.skipping

    def add(self, records: list[Record], *, rows: int, size: int, parked: Iterable[tuple[int, Parked]] = ()) -> None:
        """A run of rows of the open transaction: `rows` were decoded, `records` are those to publish, `size` bytes.

        `parked` are those that stay behind, each with the number of `records` before it. A run that leaves nothing
        weighs nothing: rows that are passed over after a restart would fill a batch otherwise, and its `part` would lie
        before the one that is durable.
        """
        self.next_index += rows
        before = len(self._records)
        self._parked += [(before + at, row) for at, row in parked]
        self._records += records
        if records or parked:
            self.bytes += size

    def commit(self, end_lsn: Lsn) -> None:
        """The transaction ends: from here on a batch may be cut."""
        self._open = None
        if self.skipping:
            self.skipping = False
            return
        self._cut_rows = len(self._records)
        self._cut_parked = len(self._parked)
        self._cut_bytes = self.bytes
        self._cut_transactions += 1
        self._cut_lsn = end_lsn
        self._cut_commit_us = self._commit_us
        if not self.oldest_commit_us:
            self.oldest_commit_us = self._commit_us
        if end_lsn > self.keepalive_lsn:
            self.keepalive_lsn = end_lsn

    def keepalive(self, wal_end: Lsn) -> None:
        """The server has sent everything up to `wal_end`; it counts only where nothing is open."""
        if self._open is None and wal_end > self.keepalive_lsn:
            self.keepalive_lsn = wal_end

    def idle_lsn(self) -> Lsn | None:
        """A position that may be written as progress with no event, or None where something waits."""
        if self._open is not None or self.rows or self._cut_lsn is not None:
            return None
        if self._part is not None:
            # The rest of that transaction is still to come: a position before it would forget how far it was published.
            return None
        return self.keepalive_lsn if self.keepalive_lsn > self._end_lsn else None

    def seal(self, max_rows: int, max_bytes: int) -> Batch | None:
        """Cut a batch at the newest commit; inside a transaction only where that one fills a batch alone."""
        if self._cut_lsn is not None:
            return self._seal_at_commit()
        if self._open is not None and (self.rows >= max_rows or self.bytes >= max_bytes):
            return self._seal_inside(self._open)
        return None

    def seal_idle(self) -> Batch | None:
        """An empty batch which carries an idle position."""
        lsn = self.idle_lsn()
        if lsn is None:
            return None
        self._end_lsn, self._part = lsn, None
        return Batch([], lsn, None)

    def _seal_at_commit(self) -> Batch:
        assert self._cut_lsn is not None  # noqa: S101 - narrows the type; the one caller has just asked
        if self._cut_rows == len(self._records):
            records, self._records = self._records, []
        else:
            records = self._records[: self._cut_rows]
            del self._records[: self._cut_rows]
        batch = Batch(
            records,
            self._cut_lsn,
            None,
            transactions=self._cut_transactions,
            oldest_commit_us=self.oldest_commit_us,
            newest_commit_us=self._cut_commit_us,
            parked=self._taken_parked(self._cut_parked),
        )
        self.bytes -= self._cut_bytes
        self._end_lsn, self._part = self._cut_lsn, None
        self._cut_rows = self._cut_parked = self._cut_bytes = self._cut_transactions = 0
        self._cut_lsn = None
        self.oldest_commit_us = self._commit_us if self.rows else 0
        return batch

    def _taken_parked(self, count: int) -> list[Parked]:
        """Take the first `count` out; those that stay stand behind the records that are left."""
        taken = [row for _, row in self._parked[:count]]
        self._parked = [(at - self._cut_rows, row) for at, row in self._parked[count:]]
        return taken

    def _seal_inside(self, commit_lsn: Lsn) -> Batch:
        records, self._records = self._records, []
        parked, self._parked = [row for _, row in self._parked], []
        self.bytes = 0
        self._part = Part(commit_lsn, self.next_index)
        # Rows of this very transaction go on being taken in: none of them is to be skipped again.
        at = self._commit_us
        return Batch(records, self._end_lsn, self._part, oldest_commit_us=at, newest_commit_us=at, parked=parked)

    def let_go(self, hold: Hold, to_record: Callable[[Parked], Record | None]) -> bool:
        """What waited in the database for `hold` has gone out: what waits here goes after it, each in its place.

        It ends at the first row of that key that cannot go itself (`to_record` gives None); from there on the key is
        held still. A row that is discarded, or a dead letter, holds nobody up. Returns whether the key is free.
        """
        records: list[Record] = []
        kept: list[tuple[int, Parked]] = []
        cut_rows, cut_parked, done, free = self._cut_rows, self._cut_parked, 0, True
        for nth, (at, row) in enumerate(self._parked):
            records += self._records[done:at]
            done = at
            waits = free and row.hold == hold and row.state is ParkedState.PARKED
            record = to_record(row) if waits else None
            if record is None:
                free = free and not waits
                kept.append((len(records), row))
                continue
            records.append(record)
            if nth < self._cut_parked:
                cut_rows, cut_parked = cut_rows + 1, cut_parked - 1
        records += self._records[done:]
        self._records, self._parked, self._cut_rows, self._cut_parked = records, kept, cut_rows, cut_parked
        return free
