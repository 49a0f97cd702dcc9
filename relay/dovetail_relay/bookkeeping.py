"""What a batch adds to the books: what of it stands in the outbox, and goes out for the first time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail_relay.books import add, begin, bucket_of, tally
from dovetail_relay.nouns import Batch, Books, ParkedState, Record, UnkeptRecord
from dovetail_schemas.headers import REPLAY, STUCK_REASON

_ASIDE = frozenset((REPLAY, STUCK_REASON))


class Bookkeeper:
    """Of one reign. `unkept`: whether events may come that no row stands for.

    `verified_hour` is told by whoever compares: hours before it need not be kept apart any longer.
    """

    def __init__(self, *, unkept: bool) -> None:
        self._unkept = unkept
        self.verified_hour = 0
        # The database's time when all rows from before the slot were out: what is created later streams.
        self.began_at = 0

    def after(self, books: Books | None, batch: Batch) -> Books | None:
        """The books with `batch` in them.

        They begin where the stream does, once that is known: what was published before, by a backfill, in another epoch
        or by a release without books, was created before.
        """
        bucket = bucket_of(batch.newest_commit_us) if batch.newest_commit_us else 0
        if books is None:
            if not (bucket or self.began_at):
                return None
            books = begin(self.began_at or bucket)
        return add(books, tally(self._counted(batch)), bucket=bucket, verified_hour=self.verified_hour)

    def _counted(self, batch: Batch) -> Sequence[Record]:
        records: Sequence[Record] = batch.records
        letters = any(parked.state is ParkedState.DEAD_LETTERED for parked in batch.parked)
        if batch.command is not None or letters:
            # A replay was counted when it went out first, and a dead letter is parked, to the books.
            records = [record for record in records if not any(name in _ASIDE for name, _ in record.headers)]
        if self._unkept or batch.command is not None:
            records = [record for record in records if not isinstance(record, UnkeptRecord)]
        return records
