"""`dovetail.parked` and `dovetail.command` of the simulated database, behind the relay's own queries.

Each of the relay's statements is known by its name in `queries`, and does here what its SQL does. Rows are never
changed in place, so that the journal can keep each state of both tables: a promotion goes back to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from simulation.rows import ROWS

from dovetail_relay.nouns import Checkpoint, Lsn, lsn_text, parse_lsn, text_of
from dovetail_schemas.sql import queries

if TYPE_CHECKING:
    from simulation.database import Database

Row = dict[str, Any]
Found = list[Row]

NAME_OF: Final = {text: name for name, text in queries.items()}
# Before these the relay stands, until it has passed them.
PASSED: Final = ("halting", "condemned")
OPEN: Final = ("pending", "running", "paused")


class Tables:
    """`run(name, params)` is one statement: whole or not at all."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.parked: dict[int, Row] = {}
        self.commands: dict[int, Row] = {}
        self._journal: list[tuple[Lsn, dict[int, Row], dict[int, Row]]] = []
        self._seq = 0
        self.went_back = False
        # Rows that somebody was told to give up, whatever became of it.
        self.ever_given_up: set[int] = set()
        # How many rows the steps of each command have let go.
        self.let_go: Counter[int] = Counter()

    def run(self, name: str, params: Mapping[str, Any]) -> Found:
        if not self.parked and name in _OF_PARKED:
            return []
        done: Found = _STATEMENTS[name](self, params)
        return done

    def go_back(self, switch: Lsn) -> None:
        """The newest state that a server has whose log ends at `switch`."""
        while self._journal and self._journal[-1][0] > switch:
            self._journal.pop()
            self.went_back = True
            _, parked, commands = self._journal[-1] if self._journal else (switch, {}, {})
            self.parked, self.commands = dict(parked), dict(commands)

    def wrote(self) -> None:
        """Each write moves the log, and the state after it is remembered."""
        database = self._database
        database.insert_lsn = Lsn(database.insert_lsn + 1)
        self._journal.append((database.insert_lsn, dict(self.parked), dict(self.commands)))

    def judge_again(self, kept: set[int]) -> None:
        """A part of `recovery_rebase`: what waits, and is still in the outbox, is judged once more among all rows."""
        for row in self._of("parked"):
            if row["n"] in kept and not row["discard"]:
                del self.parked[row["seq"]]
        self.wrote()

    # -- an operator's hand, and the judge's eye ----------------------------------------------------------------------

    def submit(self, kind: str, **arguments: Any) -> int | None:
        """None where another of its class is not settled yet."""
        desk = kind != "recover"
        if any(row["state"] in OPEN and (row["kind"] != "recover") is desk for row in self.commands.values()):
            return None
        self._seq += 1
        self.commands[self._seq] = {
            "id": self._seq, "kind": kind, "arguments": arguments, "reason": None, "actor": "op", "created_at": None,
            "wanted": "run", "state": "pending", "progress": {}, "outcome": None, "settled_at": None,
        }  # fmt: skip
        self.wrote()
        return self._seq

    def want(self, wanted: str) -> None:
        """What the operator wants of the desk's open command."""
        for row in self.commands.values():
            if row["state"] in OPEN and row["kind"] != "recover":
                state = "withdrawn" if wanted == "withdraw" and row["state"] == "pending" else row["state"]
                self.commands[row["id"]] = {**row, "wanted": wanted, "state": state}
                self.wrote()
                return

    def newest_seq(self) -> int:
        return max(self.parked, default=0)

    def of_state(self, *states: str) -> list[int]:
        newest = {row["n"]: row["state"] for row in self.parked.values()}
        return [n for n, state in newest.items() if state in states]

    def answered_for(self) -> set[int]:
        return {row["n"] for row in self.parked.values() if row["state"] in ("parked", "discarded")}

    def unsettled(self, durable: Checkpoint | None) -> bool:
        """Whether the step that the checkpoint carries was committed and is not settled here."""
        step = None if durable is None else durable.command
        return step is not None and any(
            row["state"] == "parked" and row["command"] == step.id and (row["step"] or 1 << 30) <= step.step
            for row in self.parked.values()
        )

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
                self._set(row, state="condemned")
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
                "feared": False,
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
            if row["command"] == params["command"] or _chosen(row, params)
        }
        queue = [row for row in self._of("parked") if (row["hold_topic"], row["hold_key"]) in keys]
        found = []
        for row in [row for row in queue if row["seq"] > params["after"]][: params["most"]]:
            event = ROWS[row["n"]]
            names = ("id", "aggregatetype", "aggregateid", "type", "payload", "schema_fingerprint", "encoding")
            raw = dict(zip(names, event, strict=False))
            found.append({
                **row, **raw, "kept": True, "chosen": _chosen(row, params), "commit_lsn": lsn_text(row["lsn"]),
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

    def settle_doubt(self, seen: set[int]) -> None:
        """`recovery_doubt`: rows of a step in doubt that are in the topics wait no longer."""
        doubtful = [row for row in self._of("parked") if row["step"] is not None]
        for row in doubtful:
            if row["n"] in seen:
                del self.parked[row["seq"]]
            else:
                self._set(row, step=None, discard=False)
        if doubtful:
            self.wrote()

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
        return [{**row, "id": str(row["seq"])} for row in self._of("halting") if _chosen(row, params)]

    def _condemn(self, params: Mapping[str, Any]) -> Found:
        for row in self._stands(params):
            self.ever_given_up.add(row["n"])
            self._set(self.parked[row["seq"]], state="condemned", command=params["command"])
        return []

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
            if events[at] in waits:
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
        return self._command(params["id"], lambda _: True, params["state"], params["progress"])

    def _nothing(self, params: Mapping[str, Any]) -> Found:
        del params
        return []

    def _command(
        self, command_id: int, where: Callable[[Row], bool], state: str, progress: Mapping[str, Any] | None = None
    ) -> Found:
        row = self.commands.get(command_id)
        if row is None or row["state"] not in OPEN or not where(row):
            return []
        self.commands[command_id] = {**row, "state": state, "progress": {**row["progress"], **(progress or {})}}
        self.wrote()
        return [self.commands[command_id]]

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _of(self, *states: str) -> Found:
        return [row for row in self.parked.values() if row["state"] in states]

    def _set(self, row: Row, **values: Any) -> None:
        self.parked[row["seq"]] = {**row, **values}
        self.wrote()


def _chosen(row: Row, params: Mapping[str, Any]) -> bool:
    key: str | None = params["key"]
    return row["seq"] <= params["upto"] and (key is None or row["hold_key"] == key.encode())


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
    "desk_replayed": Tables._replayed,
    "desk_wanted": Tables._wanted,
    "desk_spare": Tables._spare,
    "command_active": Tables._active,
    "command_take": Tables._take,
    "command_progress": Tables._progress,
    "command_settle": Tables._settle,
    "command_audit": Tables._nothing,
    "command_patience": Tables._nothing,
}
# Most runs park nothing: these have nothing to find in an empty table.
_OF_PARKED: Final = frozenset(
    (
        *("parked_drop_beyond", "parked_drop_passed", "parked_held", "parked_standing", "parked_topics"),
        *("desk_queue", "desk_unmark", "desk_let_go"),
    )
)
