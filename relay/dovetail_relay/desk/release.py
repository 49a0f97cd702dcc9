"""`dovetail stuck release` and `stuck discard`: the queues of the named keys go out, each in its order.

A key's queue goes out from its head. It ends at the first row that still cannot: that one and what is behind it stay
parked. A discard drops the events that it names, which were written down with it one by one, and lets go what was
behind them; one that is about to be parked again is waited for. Before a step's Kafka transaction commits its rows are
marked with it; afterwards, or by the next leader, the mark says which of them have gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail_relay.decode.oversize import NOT_TAKEN_IN
from dovetail_relay.decode.pgoutput import standard_row
from dovetail_relay.desk.task import Counts, Work, place_in, row_of
from dovetail_relay.errors import StuckMessage
from dovetail_relay.intake import Intake
from dovetail_relay.nouns import LSN_ZERO, Checkpoint, Hold, Lsn, Place, Record, UnkeptRecord
from dovetail_relay.parking import REFUSED, TOPIC
from dovetail_relay.source.commands import Command
from dovetail_relay.source.lead import LockSession
from dovetail_schemas.sql import queries

FILTERS = ("id", "key", "type", "class", "since", "until")


class Release:
    """Implements `task.Task`, for both kinds."""

    def __init__(self, command: Command, session: LockSession, relay: str, intake: Intake, counts: Counts) -> None:
        self._id = command.id
        self._discards = command.kind == "discard"
        self._session = session
        self._intake = intake
        self._counts = counts
        self._chosen = {
            "relay": relay, "command": command.id, "named": self._discards, **wanted(command.arguments)
        }  # fmt: skip
        # Each leader begins at the front again: what has gone is no longer there, and the rest is tried once more.
        self._after = 0
        self._began_after = 0
        self._stopped: set[Hold] = set()
        self._still_stuck: list[str] = []
        self._step: dict[Place, tuple[int, Hold]] = {}
        # All that could be named was committed before, and has come by once the stream is here.
        self._come_by_at = LSN_ZERO
        # Where the checkpoint stood when some of it was looked for in vain: only a batch brings it.
        self._absent_at: Lsn | None = None
        if self._discards:
            session.rows(queries["desk_condemn"], self._chosen)
            self._come_by_at = session.written_at()
        # Somebody may have made a missing topic for just this.
        intake.parking.open_all()

    def problem(self) -> str | None:
        if not self._discards or self._session.rows(queries["desk_absent"], self._chosen)[0]["named"]:
            return None
        return "it names no event; next: dovetail stuck discard, which writes them down with it"

    def ready(self, base: Checkpoint) -> bool:
        # Rows from before the slot may belong before those that wait; and a recovery would not know what went out.
        if base.backfill is not None:
            return False
        if max(base.end_lsn, self._intake.ledger.idle_lsn() or base.end_lsn) >= self._come_by_at:
            return True
        # What was parked by a batch that never committed streams again. No more is waited for: the relay may be halted.
        if base.end_lsn != self._absent_at:
            self._absent_at = base.end_lsn if self._absent() else None
        return self._absent_at is None

    def step(self, number: int, most: int, most_bytes: int) -> Work | None:
        self._began_after = self._after
        while found := self._queue(most, most_bytes):
            self._after = found[-1]["seq"]
            self._step = {}
            records: list[Record] = []
            gone: list[int] = []
            discarded: list[int] = []
            for row in found:
                hold = (row["hold_topic"], bytes(row["hold_key"]))
                if self._discards and row["chosen"]:
                    # Also behind a row that stays: nobody's order depends on it.
                    discarded.append(row["seq"])
                elif hold in self._stopped:
                    continue
                elif (record := self._record(row, hold)) is not None:
                    records.append(record)
                else:
                    continue
                gone.append(row["seq"])
                self._step[place_in(row)] = (row["seq"], hold)
            if gone:
                marks = {"step": number, "rows": gone, "discarded": discarded}
                self._session.rows(queries["desk_mark"], {**self._chosen, **marks})
                return Work(records, self._counts.with_step(published=len(records), discarded=len(discarded)))
        return None

    def committed(self, number: int) -> None:
        relay = self._chosen["relay"]
        self._session.rows(queries["desk_let_go"], {"relay": relay, "command": self._id, "step": number})
        holds = {hold for _, hold in self._step.values()}
        wanted_keys = {"topics": [topic for topic, _ in holds], "keys": [key for _, key in holds]}
        held = self._session.rows(queries["desk_still_held"], {"relay": relay, **wanted_keys})
        for hold in holds - {(row["hold_topic"], bytes(row["hold_key"])) for row in held}:
            self._intake.let_go(hold)

    def refused(self, places: list[Place], topics: dict[str, str]) -> None:
        self._after = self._began_after
        for place, (seq, hold) in self._step.items():
            if place in places:
                code = self._intake.parking.refused.get(place, "for what it is")
                self._stay(seq, hold, StuckMessage(f"Kafka refuses it: {code}", event_id="", reason=REFUSED))
            elif hold[0] in topics:
                self._stay(seq, hold, StuckMessage(f"topic {hold[0]} {topics[hold[0]]}", event_id="", reason=TOPIC))
        # Nothing of this step was committed.
        step = {"relay": self._chosen["relay"], "command": self._id, "step": -1, "backfill": False}
        self._session.rows(queries["desk_unmark"], step)

    def waits(self) -> bool:
        # Rows that the relay passes over where it stood before them.
        return bool(self._ahead()["ahead"])

    def outcome(self) -> tuple[str, dict[str, Any]]:
        done, passed, standing = self._counts.durable, self._ahead()["passed"], self._standing()
        absent = self._absent() if self._discards else 0
        left = [*standing, *self._still_stuck]
        said = (
            f"published {done['published']}, discarded {done['discarded'] + passed}, "
            f"still stuck {len(left)} with what is behind them"
            + (f"; no longer stuck {absent}" if absent else "")
            + ("; the relay stands before one, and goes on by itself once its cause is gone" if standing else "")
        )
        return said, {"still_stuck": len(left), "first_stuck": left[0]} if left else {}

    def _standing(self) -> list[str]:
        if self._discards:
            return []
        return [row["id"] for row in self._session.rows(queries["desk_standing"], self._chosen)]

    def _absent(self) -> int:
        return int(self._session.rows(queries["desk_absent"], self._chosen)[0]["absent"])

    def _ahead(self) -> dict[str, Any]:
        return self._session.rows(queries["desk_condemned"], {"relay": self._chosen["relay"], "command": self._id})[0]

    def _queue(self, most: int, most_bytes: int) -> list[dict[str, Any]]:
        limits = {"after": self._after, "most": most, "most_bytes": most_bytes}
        return self._session.rows(queries["desk_queue"], {**self._chosen, **limits})

    def _record(self, row: dict[str, Any], hold: Hold) -> Record | None:
        """What goes out; None where the key's queue stops here."""
        try:
            if bytes(row["encoding"]) == NOT_TAKEN_IN:
                again = "replay it from the outbox" if row["kept"] else "let its service publish it again"
                said = f"its payload was never taken in; discard it, and {again} under a higher limit"
                raise StuckMessage(said, event_id="", reason="too_large")
            record = self._intake.record_of(standard_row(row_of(row)), place_in(row), row["epoch"])
            why = self._intake.parking.closed.get(record.topic)
            if why is not None:
                raise StuckMessage(f"topic {record.topic} {why}", event_id="", reason=TOPIC)
        except StuckMessage as stuck:
            self._stay(row["seq"], hold, stuck)
            return None
        return record if row["kept"] else UnkeptRecord(*record)

    def _stay(self, seq: int, hold: Hold, stuck: StuckMessage) -> None:
        if hold in self._stopped:
            return
        self._stopped.add(hold)
        found = self._session.rows(
            queries["desk_still_stuck"], {"seq": seq, "reason": stuck.reason, "message": str(stuck)[:1000]}
        )
        self._still_stuck += [row["id"] for row in found]


def wanted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments as the queries take them: a missing one chooses everything."""
    return {**{name: arguments.get(name) for name in FILTERS}, "upto": int(arguments.get("upto", 0))}
