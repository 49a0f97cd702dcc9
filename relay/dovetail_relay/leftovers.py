"""What a batch leaves behind: rows that are parked, and records and topics that Kafka refuses.

A refused batch did not commit. Once it is known which record or topic was the cause, the batch is given up and taken
again from where it came, and the row is parked when it comes by. Where the broker refuses without saying which record
it means (it answers for a whole request), the batch is sent once more with each record in a request of its own.
"""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from dovetail_relay.logs import log
from dovetail_relay.nouns import LSN_ZERO, Batch, Checkpoint, Lsn, Parked, ParkedState, Place
from dovetail_relay.parking import BEHIND, Parking
from dovetail_relay.publish.port import Publisher, Refusal
from dovetail_relay.route.headers import place_of
from dovetail_relay.source.parked import ParkedRows
from dovetail_relay.telemetry import LogEvent, Telemetry

# A topic that nothing could be written to is tried again so often.
CLOSED_SECONDS: Final = 30.0
# Stuck messages of one batch that are logged by their ids: a wrong deployment makes thousands in a second.
_MOST_LINES: Final = 20
# Counting takes at most one part in so many of the loop's time.
_COUNT_PAUSE: Final = 20

_EVENT_OF: Final = {
    ParkedState.PARKED: LogEvent.MESSAGE_STUCK,
    ParkedState.DISCARDED: LogEvent.MESSAGE_DISCARDED,
    ParkedState.DEAD_LETTERED: LogEvent.MESSAGE_DEAD_LETTERED,
}


class Leftovers:
    """What one leader knows of what cannot go out. Not thread-safe: the relay's loop owns it."""

    def __init__(self, parking: Parking, rows: ParkedRows, publisher: Publisher, telemetry: Telemetry) -> None:
        self.parking = parking
        self._rows = rows
        self._publisher = publisher
        self._telemetry = telemetry
        self._topics: set[str] = set()
        self._closed_at = 0.0
        self._standing_before = 0
        self._counted = False
        self._count_due = 0.0

    def begin(self) -> None:
        """Know again only what the database knows: rows that were in memory stream once more."""
        self.parking.begin(self._rows.held(), *self._rows.standing())
        self._count()

    def changed(self) -> None:
        """What waits is not what it was: the metrics are told with the next pulse, for counting takes time."""
        self._counted = False

    def tell(self) -> None:
        """Tell the metrics how much waits, where that has changed; of a long queue less often, for it takes longer."""
        if not self._counted and time.monotonic() >= self._count_due:
            self._count()

    def _count(self) -> None:
        self._counted = True
        began = time.monotonic()
        messages, keys, self._standing_before = self._rows.counts()
        now = time.monotonic()
        self._count_due = now + (now - began) * _COUNT_PAUSE
        self._telemetry.parked(messages=messages, keys=keys)

    def missing_topics(self, batch: Batch) -> dict[str, str]:
        """Topics of the batch that do not exist, with the reason in words. Asked once per topic and reign."""
        missing = {}
        for topic in {record.topic for record in batch.records} - self._topics:
            if self._publisher.partitions(topic, timeout=1.0) is None:
                missing[topic] = (
                    "does not exist, and the relay creates none; next: name its type under [routes], then dovetail init"
                )
            else:
                self._topics.add(topic)
        return missing

    def forget_beyond(self, base: Checkpoint) -> None:
        """A batch behind `base` is given up: each row that it parked is judged again, and may become something else."""
        self._rows.drop_beyond(base)

    def write(self, batch: Batch, epoch: int) -> Lsn:
        """Make the batch's parked rows durable, before it commits; the log's position then."""
        return self._rows.write(epoch, batch.parked) if batch.parked else LSN_ZERO

    def write_halting(self, parked: Parked, epoch: int) -> None:
        """The row that halts the relay, for `dovetail stuck show`."""
        self._rows.write(epoch, [parked])

    def passed(self, batch: Batch, durable: Checkpoint) -> None:
        """The batch is in Kafka for good: so is what it parked, and what had halted us before it is history."""
        if self._standing_before:
            self._rows.drop_passed(durable)
            self._count()
        if not batch.parked:
            return
        self.parking.passed(batch.end_lsn)
        # One line for each stuck message; none for those that only wait behind it.
        stuck = [row for row in batch.parked if row.reason != BEHIND]
        for row in stuck[:_MOST_LINES]:
            log(_EVENT_OF[row.state], row.message, event_id=str(UUID(bytes=row.row[0])), reason=row.reason)
        if more := stuck[_MOST_LINES:]:
            log(_EVENT_OF[more[0].state], "and more of its batch; next: dovetail stuck list", more=len(more))
        self.changed()

    def refuse(self, batch: Batch, refusals: list[Refusal], now: float) -> tuple[list[Place], dict[str, str]]:
        """From here on those records, or topics, are refused. Returns the places of the rows, and the topics."""
        topics = {each.topic: f"refuses records: {each.code}" for each in refusals if each.whole_topic}
        places = []
        for each in refusals:
            if each.index is not None and not each.whole_topic:
                places.append(place_of(batch.records[each.index].headers))
                self.parking.refuse(places[-1], each.code)
        self.close(topics, now)
        return places, topics

    def close(self, topics: dict[str, str], now: float) -> None:
        """Nothing can be written to these topics for a while."""
        self._closed_at = now
        for topic, why in topics.items():
            self.parking.close(topic, why)

    def reopen(self, now: float) -> None:
        """Try closed topics again after a while: somebody may have made them, or granted the right."""
        if self.parking.closed and now - self._closed_at > CLOSED_SECONDS:
            self.parking.open_all()
            self._topics.clear()


def told(refusals: tuple[Refusal, ...]) -> list[Refusal]:
    """Those that say which record, or which topic, they mean."""
    return [each for each in refusals if each.index is not None or each.whole_topic]
