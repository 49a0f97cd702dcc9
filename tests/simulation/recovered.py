"""What `recovery.sql` does, and the columns of `dovetail.relay` that an operator's word changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from simulation.stored import Found, Row, Stored

from dovetail_relay.nouns import parse_lsn
from dovetail_relay.parking import CRASH


class Recovered(Stored):
    """Statements of a relay that is halted, or that recovers."""

    # What the newest attempt has read back. No promotion goes back to it: a recovery begins by forgetting it.
    seen: set[int]
    on_accept: Callable[[str, Mapping[str, int]], None]

    def _drop_slot(self, params: Mapping[str, Any]) -> Found:
        del params
        self._database.drop_slot()
        return []

    def _rebase(self, params: Mapping[str, Any]) -> Found:
        database = self._database
        row = database.row
        if params["judge_again"]:
            self._judge_again(params["horizon"], int(params["snapshot"]))
        database.rebased_lsn = database.insert_lsn
        database.row = replace(
            row,
            consistent_point=parse_lsn(params["consistent_point"]),
            snapshot=params["snapshot"],
            epoch=max(row.epoch, params["known_epoch"]) + 1,
            recovery_horizon=params["horizon"],
            recovery_command=params["command"],
        )
        return []

    def _judge_again(self, horizon: int, visible: int) -> None:
        """A queue stays as it is where any of its rows does."""
        outbox = self._database.outbox(horizon, visible)
        stays = {_queue_of(row) for row in self.waiting() if self._stays(row)}
        again = [row for row in self.waiting() if row["n"] in outbox and not row["discard"]]
        self.judged_again += bool(again)
        for row in again:
            if _queue_of(row) in stays:
                self.kept_whole += not self._stays(row)
            else:
                del self.parked[row["seq"]]
        self.wrote()

    def _stays(self, row: Row) -> bool:
        return row["reason"] == CRASH or row["discard"] or row["n"] in self.ground.gone

    def _over(self, params: Mapping[str, Any]) -> Found:
        del params
        self._database.row = replace(self._database.row, recovery_horizon=None, recovery_command=None)
        return []

    def _stuck_again(self, params: Mapping[str, Any]) -> Any:
        again = [row for row in self.parked.values() if row["epoch"] == params["epoch"] and not row["lsn"]
                 and row["state"] != "discarded"]  # fmt: skip
        return [(len(again),)]

    def _forget(self, params: Mapping[str, Any]) -> Found:
        del params
        self.seen = set()
        return []

    def _note_seen(self, params: Mapping[str, Any]) -> Found:
        self.seen |= {event_id.int for event_id in params["ids"]}
        return []

    def _doubt(self, params: Mapping[str, Any]) -> Found:
        """Rows of a step in doubt that are in the topics wait no longer."""
        del params
        doubtful = [row for row in self.waiting() if row["step"] is not None]
        for row in doubtful:
            if row["n"] in self.seen:
                self.found_out += 1
                del self.parked[row["seq"]]
            else:
                self._set(row, step=None, discard=False)
        if doubtful:
            self.wrote()
        return []

    def _accept(self, params: Mapping[str, Any]) -> Found:
        partitions = json.loads(params["partitions"])
        self.on_accept(params["fingerprint"], partitions)
        counts = {**dict(self.ground.counts), **partitions}
        self.change(recorded=params["fingerprint"], counts=tuple(counts.items()))
        return []


def _queue_of(row: Row) -> tuple[str, bytes]:
    return row["hold_topic"], row["hold_key"]
