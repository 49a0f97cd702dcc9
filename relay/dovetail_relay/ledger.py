"""The only arithmetic on progress: what was taken in, where a batch may be cut, and how far that brings the checkpoint.

Pure and single-threaded. The stream feeds it (`begin`, `add`, `commit`, `keepalive`); the pipeline takes batches out
(`seal`). Rules it keeps:

* a batch ends at a commit, or inside one transaction that alone fills it; then `end_lsn` stays and `part` moves;
* a transaction whose `final_lsn` lies before the checkpoint was published before: it is dropped, known before its
  first row; the rows of a partly published one are dropped up to `part.next_index`;
* a keepalive's position counts only while nothing is open, nothing waits and no transaction is partly published.
"""

from __future__ import annotations

from dovetail_relay.nouns import Batch, Lsn, Part, Record


class Ledger:
    """Rows taken in and not yet handed out. `rows` and `bytes` bound it: over them the pipeline stops reading."""

    __slots__ = (
        "_commit_us",
        "_cut_bytes",
        "_cut_lsn",
        "_cut_rows",
        "_cut_transactions",
        "_end_lsn",
        "_open",
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
        self.bytes = 0
        self._open: Lsn | None = None
        self.next_index = 0  # of the next row of the open transaction
        self.skip_rows = 0  # so many of its first rows were published before
        self._commit_us = 0
        self._cut_rows = self._cut_bytes = self._cut_transactions = 0
        self.oldest_commit_us = 0  # of the oldest transaction that waits, µs since 2000-01-01; 0 when none does
        self._cut_lsn: Lsn | None = None
        self.keepalive_lsn: Lsn = end_lsn
        self.skipping = False

    @property
    def rows(self) -> int:
        """Rows taken in and not yet sealed."""
        return len(self._records)

    @property
    def in_transaction(self) -> bool:
        """Whether the stream stands between a Begin and its Commit."""
        return self._open is not None

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

    def add(self, records: list[Record], *, rows: int, size: int) -> None:
        """A run of rows of the open transaction: `rows` were decoded, `records` are those to publish, `size` bytes.

        A run that leaves nothing to publish weighs nothing: rows that are passed over after a restart would fill a
        batch otherwise, and its `part` would lie before the one that is durable.
        """
        self.next_index += rows
        if records:
            self._records += records
            self.bytes += size

    def commit(self, end_lsn: Lsn) -> None:
        """The transaction ends: from here on a batch may be cut."""
        self._open = None
        if self.skipping:
            self.skipping = False
            return
        self._cut_rows = len(self._records)
        self._cut_bytes = self.bytes
        self._cut_transactions += 1
        self._cut_lsn = end_lsn
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
        if self._open is not None or self._records or self._cut_lsn is not None:
            return None
        if self._part is not None:
            # The rest of that transaction is still to come: a position before it would forget how far it was published.
            return None
        return self.keepalive_lsn if self.keepalive_lsn > self._end_lsn else None

    def seal(self, max_rows: int, max_bytes: int) -> Batch | None:
        """Cut a batch at the newest commit; inside a transaction only where that one fills a batch alone."""
        if self._cut_lsn is not None:
            return self._seal_at_commit()
        if self._open is not None and (len(self._records) >= max_rows or self.bytes >= max_bytes):
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
        )
        self.bytes -= self._cut_bytes
        self._end_lsn, self._part = self._cut_lsn, None
        self._cut_rows = self._cut_bytes = self._cut_transactions = 0
        self._cut_lsn = None
        self.oldest_commit_us = self._commit_us if self._records else 0
        return batch

    def _seal_inside(self, commit_lsn: Lsn) -> Batch:
        records, self._records = self._records, []
        self.bytes = 0
        self._part = Part(commit_lsn, self.next_index)
        # Rows of this very transaction go on being taken in: none of them is to be skipped again.
        return Batch(records, self._end_lsn, self._part, oldest_commit_us=self._commit_us)
