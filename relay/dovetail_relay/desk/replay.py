"""`dovetail replay`: published events once more, from the retained outbox, under their ids, with a header `replay`.

Which events is the operator's word, by id; what they say is the outbox's. Replay is outside of the promises of order
and exactly once: the inbox absorbs what it knows.
"""

from __future__ import annotations

from typing import Any, Final

from dovetail_relay.decode.pgoutput import standard_row
from dovetail_relay.desk.task import Counts, Work, row_of, stored_place
from dovetail_relay.errors import StuckMessage
from dovetail_relay.intake import Intake
from dovetail_relay.nouns import Checkpoint, Place, Record
from dovetail_relay.source.commands import Command
from dovetail_relay.source.lead import LockSession
from dovetail_schemas.headers import REPLAY
from dovetail_schemas.sql import queries

_AFTER: Final = "after"
# The relay's own client says the same as the broker.
_WHOSE_LIMIT: Final = ', the limit is kafka."message.max.bytes" or the topic\'s max.message.bytes'


class Replay:
    """Implements `task.Task`. Where to go on is durable with each step."""

    def __init__(self, command: Command, session: LockSession, relay: str, intake: Intake, counts: Counts) -> None:
        self._id = command.id
        self._topic: str | None = command.arguments.get("topic")
        self._session = session
        self._relay = relay
        self._intake = intake
        self._counts = counts
        self._refused: dict[Place, str] = {}
        self._closed: dict[str, str] = {}
        # Why the first of those could not go out that could not; a successor finds it anew, or it is not told.
        self._first: str | None = None
        # An event that was committed and is not out yet would be published twice, and overtake those before it.
        self._written_at = session.written_at()
        self._mark = (REPLAY, str(command.id).encode())

    def problem(self) -> str | None:
        return None

    def ready(self, base: Checkpoint) -> bool:
        if base.backfill is not None:
            return False
        return max(base.end_lsn, self._intake.ledger.idle_lsn() or base.end_lsn) >= self._written_at

    def step(self, number: int, most: int, most_bytes: int) -> Work | None:
        del number
        after = self._counts.durable[_AFTER]
        found = self._session.rows(
            queries["desk_replayed"],
            {"command": self._id, "relay": self._relay, "after": after, "most": most, "most_bytes": most_bytes},
        )
        if not found:
            return None
        records: list[Record] = []
        gone = stuck = 0
        for row in found:
            if row["id"] is None:
                gone += 1
                continue
            place = stored_place(row["seq"])
            try:
                record = self._intake.record_of(standard_row(row_of(row)), place, None)
            except StuckMessage as why:
                stuck += 1
                self._first = self._first or str(why)
                continue
            topic = self._topic or record.topic
            if place in self._refused or topic in self._closed:
                stuck += 1
                closed = self._closed.get(topic)
                self._first = self._first or (self._refused[place] if closed is None else f"topic {topic} {closed}")
                continue
            records.append(record._replace(topic=topic, headers=[*record.headers, self._mark]))
        behind = found[-1]["n"] + 1 - after
        return Work(records, self._counts.with_step(published=len(records), gone=gone, refused=stuck, after=behind))

    def committed(self, number: int) -> None:
        del number

    def refused(self, places: list[Place], topics: dict[str, str]) -> None:
        for place in places:
            code = self._intake.parking.refused.get(place, "for what it is")
            self._refused[place] = f"Kafka refuses it: {code}" + (_WHOSE_LIMIT if code == "MSG_SIZE_TOO_LARGE" else "")
        self._closed.update(topics)

    def waits(self) -> bool:
        return False

    def outcome(self) -> tuple[str, dict[str, Any]]:
        done = self._counts.durable
        said = (
            f"published {done['published']} again; {done['gone']} were gone from the outbox or are parked, "
            f"{done['refused']} could not go out" + (f"; the first of them: {self._first}" if self._first else "")
        )
        return said, {}
