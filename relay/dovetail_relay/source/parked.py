"""`dovetail.parked`: rows that wait, written and read by the leader over its lock session only.

Who has lost the lock can write nothing here. A row is durable before the Kafka transaction that passes over it commits,
and carries its position: what lies beyond the checkpoint belongs to a batch that never committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg

from dovetail_relay.nouns import LSN_ZERO, Checkpoint, Hold, Lsn, Parked, Place, lsn_text, parse_lsn, text_of, unrouted
from dovetail_relay.source.lead import LockSession
from dovetail_schemas.sql import queries

# 0.3 s: the lead's session shows no sign of life meanwhile, and a standby evicts who is silent for a lease.
MOST_COUNTED: Final = 100_000
_JSONB_EMPTY = b"\x01{}"


class ParkedRows:
    """Not thread-safe: the relay's loop owns it, as it owns the session. Raises what the session raises."""

    def __init__(self, session: LockSession, relay: str) -> None:
        self._session = session
        self._relay = relay

    def write(self, epoch: int, parked: Sequence[Parked]) -> Lsn:
        """Make them durable; the log's position afterwards. Rows that are there already stay as they are."""
        try:
            with self._session.connection.cursor() as cursor:
                cursor.executemany(queries["parked_write"], [self._values(epoch, row) for row in parked])
        except psycopg.Error as error:
            raise self._session.refusal(error, "dovetail.parked") from error
        return self._session.written_at()

    def drop_beyond(self, durable: Checkpoint) -> None:
        """Forget what the checkpoint does not know of, once a leader has read it."""
        part = durable.part
        self._session.rows(
            queries["parked_drop_beyond"],
            {
                "relay": self._relay,
                "epoch": durable.epoch,
                "end_lsn": lsn_text(durable.end_lsn),
                "part_lsn": lsn_text(LSN_ZERO if part is None else part.commit_lsn),
                "part_index": 0 if part is None else part.next_index,
                "backfill": durable.backfill,
                "parked_lsn": lsn_text(durable.parked_lsn),
            },
        )

    def drop_passed(self, durable: Checkpoint) -> None:
        """Forget rows that halted the relay and that it has passed since: their cause is gone."""
        self._session.rows(
            queries["parked_drop_passed"],
            {
                "relay": self._relay,
                "epoch": durable.epoch,
                "end_lsn": lsn_text(durable.end_lsn),
                "backfill": durable.backfill,
            },
        )

    def follow(self, topic_of: Callable[[str], str | None]) -> None:
        """The configuration may be a new one: what waits holds its keys in the topics where their events go now.

        A type whose route is gone waits in a queue of its own, and stays in it once there is a route again: what comes
        then comes behind it.
        """
        for row in self._session.rows(queries["parked_topics"], {"relay": self._relay}):
            before, aggregatetype = row["hold_topic"], row["aggregatetype"]
            of_its_own = unrouted(aggregatetype)
            now = topic_of(aggregatetype) or of_its_own
            if before not in (now, of_its_own):
                values = {"relay": self._relay, "from": before, "to": now, "aggregatetype": aggregatetype}
                self._session.rows(queries["parked_follow"], values)

    def held(self) -> Iterator[Hold]:
        """The keys that are held."""
        for row in self._session.rows(queries["parked_held"], {"relay": self._relay}):
            yield row["hold_topic"], bytes(row["hold_key"])

    def standing(self) -> tuple[set[Place], set[Place]]:
        """(condemned, feared): rows to pass over because an operator said so, and rows that have ended the process."""
        condemned: set[Place] = set()
        feared: set[Place] = set()
        for row in self._session.rows(queries["parked_standing"], {"relay": self._relay}):
            place = Place(parse_lsn(row["commit_lsn"]), row["index"])
            if row["condemned"]:
                condemned.add(place)
            if row["feared"]:
                feared.add(place)
        return condemned, feared

    def counts(self) -> tuple[int, int, int]:
        """(messages, keys) that wait now, MOST_COUNTED at most, and before how many messages the relay stands."""
        row = self._session.rows(queries["parked_counts"], {"relay": self._relay, "most": MOST_COUNTED})[0]
        return row["messages"], row["keys"], row["standing_before"]

    def _values(self, epoch: int, parked: Parked) -> dict[str, Any]:
        row = parked.row
        return {
            "relay": self._relay,
            "epoch": epoch,
            "commit_lsn": lsn_text(parked.place.commit_lsn),
            "index": parked.place.nth,
            "hold_topic": parked.hold[0],
            "hold_key": parked.hold[1],
            "reason": parked.reason,
            "message": text_of(parked.message[:1000]),
            "state": parked.state.value,
            "id": UUID(bytes=row[0]),
            "aggregatetype": text_of(row[1]),
            "aggregateid": text_of(row[2]),
            "type": text_of(row[3]),
            "payload": row[4],
            "schema_fingerprint": row[5],
            "encoding": text_of(row[6]),
            "headers": row[7] or _JSONB_EMPTY,
            "created_us": row[8],
        }
