"""`dovetail.parked` and `dovetail.command` of the simulated database, behind the relay's own queries.

Each of the relay's statements is known by its name in `queries`, and does here what its SQL does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from simulation.checks import check
from simulation.recovered import Recovered
from simulation.rows import ROWS
from simulation.stored import OPEN, UNSUSPECTED, Found, Row, chosen

from dovetail_relay.nouns import lsn_text, parse_lsn, text_of
from dovetail_schemas.sql import queries

NAME_OF: Final = {text: name for name, text in queries.items()}
# Before these the relay stands, until it has passed them.
PASSED: Final = ("halting", "condemned")


class Tables(Recovered):
    """`run(name, params)` is one statement: whole or not at all."""

    def run(self, name: str, params: Mapping[str, Any]) -> Found:
        if not self.parked and name in _OF_PARKED:
            return []
        done: Found = _STATEMENTS[name](self, params)
        return done

    # -- parked.sql ---------------------------------------------------------------------------------------------------

    def _write(self, params: Mapping[str, Any]) -> Found:
        place = (params["epoch"], parse_lsn(params["commit_lsn"]), params["index"])
        what: Row = {name: params[name] for name in ("state", "reason", "message")}
        what["written"] = self._database.insert_lsn
        for row in self.parked.values():
            if (row["epoch"], row["lsn"], row["index"]) == place:
                if row["state"] in ("halting", "condemned"):
                    self._set(row, **what)
                return []
        self._seq += 1
        self.parked[self._seq] = {
            "seq": self._seq, "epoch": place[0], "lsn": place[1], "index": place[2], "n": params["id"].int,
            "hold_topic": params["hold_topic"], "hold_key": params["hold_key"],
            "command": None, "step": None, "discard": False, **what,
        }  # fmt: skip
        self.wrote()
        return []

    def _written_at(self, params: Mapping[str, Any]) -> Found:
        del params
        return [{"lsn": lsn_text(self._database.insert_lsn)}]

    def _drop_beyond(self, params: Mapping[str, Any]) -> Found:
        end, part = parse_lsn(params["end_lsn"]), parse_lsn(params["part_lsn"])
        for row in self._of("parked", "discarded", "dead_lettered"):
            within = row["epoch"] < params["epoch"] or (
                row["epoch"] == params["epoch"]
                and row["written"] < parse_lsn(params["parked_lsn"])
                and (
                    (params["backfill"] is None or row["index"] < params["backfill"])
                    if row["lsn"] == 0
                    else row["lsn"] < end or (row["lsn"] == part and row["index"] < params["part_index"])
                )
            )
            if within:
                continue
            if row["state"] == "discarded" and row["command"] is not None:
                gone = self.commands.get(row["command"], {}).get("state") == "withdrawn"
                self._set(row, state="halting" if gone else "condemned", command=None if gone else row["command"])
            else:
                del self.parked[row["seq"]]
                self.wrote()
        return []

    def _drop_passed(self, params: Mapping[str, Any]) -> Found:
        end, over = parse_lsn(params["end_lsn"]), params["backfill"] is None
        for row in self._of(*PASSED):
            if (row["epoch"] < params["epoch"] and over) or (
                row["epoch"] == params["epoch"]
                and (over or row["index"] < params["backfill"] if row["lsn"] == 0 else row["lsn"] < end)
            ):
                del self.parked[row["seq"]]
                self.wrote()
        return []

    def _held(self, params: Mapping[str, Any]) -> Found:
        del params
        return self._of("parked")

    def _topics(self, params: Mapping[str, Any]) -> Found:
        del params
        found = {(row["hold_topic"], text_of(ROWS[row["n"]][1])) for row in self._of("parked")}
        return [{"hold_topic": topic, "aggregatetype": aggregatetype} for topic, aggregatetype in sorted(found)]

    def _follow(self, params: Mapping[str, Any]) -> Found:
        for row in self._of("parked"):
            if (row["hold_topic"], text_of(ROWS[row["n"]][1])) == (params["from"], params["aggregatetype"]):
                self._set(row, hold_topic=params["to"])
        return []

    def _standing(self, params: Mapping[str, Any]) -> Found:
        del params
        return [
            {
                "commit_lsn": lsn_text(row["lsn"]), "index": row["index"], "condemned": row["state"] == "condemned",
                "feared": row["reason"] == "crash",
            }
            for row in self._of("halting", "condemned")
        ]  # fmt: skip

    def _counts(self, params: Mapping[str, Any]) -> Found:
        del params
        waiting = self._of("parked", "halting", "condemned")
        keys = {(row["hold_topic"], row["hold_key"]) for row in waiting}
        standing = sum(row["state"] != "parked" for row in waiting)
        return [{"messages": len(waiting), "keys": len(keys), "standing_before": standing}]

    # -- desk.sql -----------------------------------------------------------------------------------------------------

    def _queue(self, params: Mapping[str, Any]) -> Found:
        keys = {
            (row["hold_topic"], row["hold_key"])
            for row in self._of("parked")
            if row["command"] == params["command"] or self._named(row, params)
        }
        queue = [row for row in self._of("parked") if (row["hold_topic"], row["hold_key"]) in keys]
        found = []
        for row in [row for row in queue if row["seq"] > params["after"]][: params["most"]]:
            event = ROWS[row["n"]]
            names = ("id", "aggregatetype", "aggregateid", "type", "payload", "schema_fingerprint", "encoding")
            raw = dict(zip(names, event, strict=False))
            found.append({
                **row, **raw, "kept": row["n"] not in self.ground.gone,
                "chosen": params["named"] and self._named(row, params),
                "commit_lsn": lsn_text(row["lsn"]),
                "headers": event[7], "created_us": int(event[8]).to_bytes(8, "big"),
            })  # fmt: skip
        return found

    def _mark(self, params: Mapping[str, Any]) -> Found:
        last: dict[tuple[str, bytes], int] = {}
        for row in [self.parked[seq] for seq in params["rows"] if seq in self.parked]:
            seq = row["seq"]
            if seq in params["discarded"]:
                self.ever_given_up.add(row["n"])
            self.parked[seq] = {
                **row, "command": params["command"], "step": params["step"], "discard": seq in params["discarded"],
            }  # fmt: skip
            last[row["hold_topic"], row["hold_key"]] = seq
        for hold, seq in last.items():
            behind = [row for row in self._of("parked") if (row["hold_topic"], row["hold_key"]) == hold]
            for row in [row for row in behind if row["seq"] > seq][:1]:
                self.parked[row["seq"]] = {**row, "command": params["command"], "step": None, "discard": False}
        self.wrote()
        return []

    def _unmark(self, params: Mapping[str, Any]) -> Found:
        if params["backfill"] and self._database.row.recovery_horizon is not None:
            return []
        for row in self._of("parked"):
            step = row["step"]
            if step is not None and not (row["command"] == params["command"] and step <= params["step"]):
                self._set(row, step=None, discard=False)
        return []

    def _let_go(self, params: Mapping[str, Any]) -> Found:
        for row in self._of("parked"):
            step = row["step"]
            if row["command"] == params["command"] and step is not None and step <= params["step"]:
                self.let_go[params["command"]] += 1
                if row["discard"]:
                    self.parked[row["seq"]] = {**row, "state": "discarded", "reason": "discarded"}
                else:
                    del self.parked[row["seq"]]
        self.wrote()
        return []

    def _still_held(self, params: Mapping[str, Any]) -> Found:
        asked = set(zip(params["topics"], params["keys"], strict=True))
        return [row for row in self._of("parked") if (row["hold_topic"], row["hold_key"]) in asked]

    def _still_stuck(self, params: Mapping[str, Any]) -> Found:
        if params["seq"] in self.parked:
            self._set(self.parked[params["seq"]], reason=params["reason"], message=params["message"])
        return [{"id": str(params["seq"])}]

    def _stands(self, params: Mapping[str, Any]) -> Found:
        return [{**row, "id": str(row["seq"])} for row in self._of("halting") if chosen(row, params)]

    def _named(self, row: Row, params: Mapping[str, Any]) -> bool:
        """A discard names its events one by one."""
        return row["n"] in self._events(params) if params["named"] else chosen(row, params)

    def judge(self, name: str, params: Mapping[str, Any]) -> None:
        """A discard gives up what it names, no more; and nothing of it waits again once it is done."""
        if name == "desk_mark":
            given_up = {self.parked[seq]["n"] for seq in params["discarded"] if seq in self.parked}
            check(given_up <= self._events(params), "a discard gives up what nobody has named")
        elif name == "parked_write" and params["state"] in ("parked", "halting") and not self.went_back:
            done = (row for row in self.commands.values() if (row["kind"], row["state"]) == ("discard", "done"))
            again = any(params["id"].int in row["arguments"]["named"] for row in done)
            check(not again, "what a discard named waits again, though it was done")

    def _events(self, params: Mapping[str, Any]) -> frozenset[int]:
        command = self.commands.get(params["command"])
        return frozenset() if command is None else command["arguments"].get("named", frozenset())

    def _condemn(self, params: Mapping[str, Any]) -> Found:
        for row in self._of("halting"):
            if row["n"] in self._events(params):
                self.ever_given_up.add(row["n"])
                self._set(row, state="condemned", command=params["command"])
        return []

    def _absent(self, params: Mapping[str, Any]) -> Found:
        there = {row["n"] for row in self.parked.values()}
        events = self._events(params)
        return [{"named": len(events), "absent": len(events - there)}]

    def _of_command(self, params: Mapping[str, Any]) -> Found:
        ours = [row for row in self.parked.values() if row["command"] == params["command"]]
        ahead = sum(row["state"] == "condemned" for row in ours)
        passed = sum(row["state"] == "discarded" and row["step"] is None for row in ours)
        return [{"ahead": ahead, "passed": passed}]

    def _replayed(self, params: Mapping[str, Any]) -> Found:
        names = ("id", "aggregatetype", "aggregateid", "type", "payload", "schema_fingerprint", "encoding", "headers")
        waits = set(self.of_state("parked", "halting", "condemned"))
        events = self.commands[params["command"]]["arguments"]["events"]
        found = []
        for at in range(params["after"], min(len(events), params["after"] + params["most"])):
            event = ROWS[events[at]]
            raw: Row = dict(zip(names, event, strict=False))
            if events[at] in waits or events[at] in self.ground.gone:
                raw["id"] = None
            created = int(event[8]).to_bytes(8, "big")
            found.append({**raw, "n": at, "seq": events[at], "created_us": created})
        return found

    # -- command.sql --------------------------------------------------------------------------------------------------

    def _active(self, params: Mapping[str, Any]) -> Found:
        return [row for row in self.commands.values() if row["state"] in OPEN and row["kind"] in params["kinds"]]

    def _take(self, params: Mapping[str, Any]) -> Found:
        return self._command(params["id"], lambda row: row["wanted"] == "run" or row["state"] == "running", "running")

    def _wanted(self, params: Mapping[str, Any]) -> Found:
        return self._command(params["id"], lambda _: True, params["state"])

    def _spare(self, params: Mapping[str, Any]) -> Found:
        for row in self._of("condemned"):
            if row["command"] == params["command"]:
                self._set(row, state="halting", command=None)
        return []

    def _progress(self, params: Mapping[str, Any]) -> Found:
        said = params["progress"]
        return self._command(params["id"], lambda row: row["state"] == "running", "running", said)

    def _settle(self, params: Mapping[str, Any]) -> Found:
        return self._command(params["id"], lambda _: True, params["state"], params["progress"], params["outcome"])

    def _nothing(self, params: Mapping[str, Any]) -> Found:
        del params
        return []

    # -- relay.sql: the notes of the search for poison ----------------------------------------------------------------

    def _began(self, params: Mapping[str, Any]) -> Found:
        again = self.notes["starts_at"] == params["at"]
        self.note(starts=self.notes["starts"] + 1 if again else 1, starts_at=params["at"])
        return [dict(self.notes)]

    def _suspects(self, params: Mapping[str, Any]) -> Found:
        notes, place = self.notes, (params["lsn"], params["nth"])
        again = place == (notes["suspect_lsn"], notes["suspect_index"])
        self.note(
            suspect_starts=notes["suspect_starts"] + 1 if again else 1,
            suspect_lived=notes["suspect_lived"] if again else 0,
            suspect_lsn=place[0], suspect_index=place[1], suspect_left=params["left"],
        )  # fmt: skip
        return []

    def _lived(self, params: Mapping[str, Any]) -> Found:
        del params
        self.note(suspect_lived=self.notes["suspect_lived"] + 1)
        return []

    def _acquitted(self, params: Mapping[str, Any]) -> Found:
        del params
        if self.notes["starts"] or self.notes["suspect_lsn"] is not None:
            self.note(**UNSUSPECTED)
        return []


_STATEMENTS: Final[dict[str, Callable[[Tables, Mapping[str, Any]], Found]]] = {
    "parked_write": Tables._write,
    "parked_written_at": Tables._written_at,
    "parked_drop_beyond": Tables._drop_beyond,
    "parked_drop_passed": Tables._drop_passed,
    "parked_held": Tables._held,
    "parked_standing": Tables._standing,
    "parked_topics": Tables._topics,
    "parked_follow": Tables._follow,
    "parked_counts": Tables._counts,
    "desk_queue": Tables._queue,
    "desk_mark": Tables._mark,
    "desk_unmark": Tables._unmark,
    "desk_let_go": Tables._let_go,
    "desk_still_held": Tables._still_held,
    "desk_still_stuck": Tables._still_stuck,
    "desk_condemn": Tables._condemn,
    "desk_condemned": Tables._of_command,
    "desk_standing": Tables._stands,
    "desk_absent": Tables._absent,
    "desk_replayed": Tables._replayed,
    "desk_wanted": Tables._wanted,
    "desk_spare": Tables._spare,
    "command_active": Tables._active,
    "command_take": Tables._take,
    "command_progress": Tables._progress,
    "command_settle": Tables._settle,
    "command_audit": Tables._nothing,
    "command_patience": Tables._nothing,
    "recovery_drop_slot": Tables._drop_slot,
    "recovery_rebase": Tables._rebase,
    "recovery_over": Tables._over,
    "recovery_stuck": Tables._stuck_again,
    "recovery_keys_over": Tables._nothing,
    "recovery_forget": Tables._forget,
    "recovery_note": Tables._note_seen,
    "recovery_doubt": Tables._doubt,
    "recovery_accept": Tables._accept,
    "relay_began": Tables._began,
    "relay_suspects": Tables._suspects,
    "relay_lived": Tables._lived,
    "relay_acquitted": Tables._acquitted,
}
# Most runs park nothing: these have nothing to find in an empty table.
_OF_PARKED: Final = frozenset(
    (
        *("parked_drop_beyond", "parked_drop_passed", "parked_held", "parked_standing", "parked_topics"),
        *("desk_queue", "desk_unmark", "desk_let_go"),
    )
)
