"""What the simulated database remembers of the relay's tables, state by state: a promotion goes back to one.

Rows are never changed in place, so that the journal can keep each state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dovetail_relay.nouns import Checkpoint, Lsn
from dovetail_relay.source.commands import FOR_HALTED

if TYPE_CHECKING:
    from simulation.database import Database

Row = dict[str, Any]
Found = list[Row]

OPEN: Final = ("pending", "running", "paused")
# What `dovetail.relay` has of the search for poison, before there was one.
UNSUSPECTED: Final[Mapping[str, Any]] = {
    "starts": 0, "starts_at": None, "suspect_lsn": None, "suspect_index": None, "suspect_starts": 0,
    "suspect_lived": 0, "suspect_left": None,
}  # fmt: skip


class Ground(NamedTuple):
    """What the relay stands on: the publication as it is, and as it was recorded; partitions as they were recorded.

    Of a publication that is not `fit` no row of the outbox is sent. `gone` are rows that the ring has given up.
    """

    publication: str | None = "p"
    fit: bool = True
    recorded: str = "p"
    counts: tuple[tuple[str, int], ...] = (("orders", 2),)
    gone: frozenset[int] = frozenset()


class State(NamedTuple):
    """`counts`: it differs from the one before in what parked rows and commands are."""

    lsn: Lsn
    parked: dict[int, Row]
    commands: dict[int, Row]
    notes: Mapping[str, Any]
    ground: Ground
    counts: bool


class Stored:
    """The rows, the journal of them, an operator's hand, and the judge's eye."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.parked: dict[int, Row] = {}
        self.commands: dict[int, Row] = {}
        self.notes = UNSUSPECTED
        self.ground = Ground()
        self.seen: set[int] = set()
        # What recoveries made of rows that wait: looked at again, left for one of their queue, found in the topics.
        self.judged_again = self.kept_whole = self.found_out = 0
        self._journal: list[State] = []
        self._seq = 0
        self.went_back = False
        # Rows that somebody was told to give up, whatever became of it.
        self.ever_given_up: set[int] = set()
        # How many rows the steps of each command have let go.
        self.let_go: Counter[int] = Counter()

    def go_back(self, switch: Lsn) -> None:
        """The newest state that a server has whose log ends at `switch`."""
        while self._journal and self._journal[-1].lsn > switch:
            self.went_back |= self._journal.pop().counts
            state = self._journal[-1] if self._journal else _EMPTY
            self.parked, self.commands = dict(state.parked), dict(state.commands)
            self.notes, self.ground = state.notes, state.ground
        self._database.recorded(self.ground.recorded)

    def wrote(self) -> None:
        """Each write moves the log, and the state after it is remembered."""
        database = self._database
        database.insert_lsn = Lsn(database.insert_lsn + 1)
        at = database.insert_lsn
        self._journal.append(State(at, dict(self.parked), dict(self.commands), self.notes, self.ground, counts=True))

    def change(self, **values: Any) -> None:
        """Something that the relay stands on."""
        self.ground = self.ground._replace(**values)
        self._database.recorded(self.ground.recorded)
        self.wrote()

    def note(self, **values: Any) -> None:
        """Of these nobody asks where in the log they stand."""
        self.notes = {**self.notes, **values}
        newest = self._journal[-1] if self._journal else _EMPTY
        self._journal.append(newest._replace(lsn=self._database.insert_lsn, notes=self.notes, counts=False))

    # -- an operator's hand, and the judge's eye ----------------------------------------------------------------------

    def submit(self, kind: str, **arguments: Any) -> int | None:
        """None where another of its class is not settled yet."""
        if any(row["state"] in OPEN and _class(row["kind"]) == _class(kind) for row in self.commands.values()):
            return None
        if kind == "discard":
            named = [row["n"] for row in self.parked.values() if row["state"] in ("parked", "halting")
                     and chosen(row, {"key": None, **arguments})]  # fmt: skip
            arguments = {**arguments, "named": frozenset(named)}
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
            if row["state"] in OPEN and _class(row["kind"]) == "desk":
                state = "withdrawn" if wanted == "withdraw" and row["state"] == "pending" else row["state"]
                self.commands[row["id"]] = {**row, "wanted": wanted, "state": state}
                self.wrote()
                return

    def newest_seq(self) -> int:
        return max(self.parked, default=0)

    def of_state(self, *states: str) -> list[int]:
        newest = {row["n"]: row["state"] for row in self.parked.values()}
        return [n for n, state in newest.items() if state in states]

    def because_of(self, reason: str) -> bool:
        return any(row["state"] == "parked" and row["reason"] == reason for row in self.parked.values())

    def answered_for(self) -> set[int]:
        return {row["n"] for row in self.parked.values() if row["state"] in ("parked", "discarded")}

    def unsettled(self, durable: Checkpoint | None) -> bool:
        """Whether the step that the checkpoint carries was committed and is not settled here."""
        step = None if durable is None else durable.command
        return step is not None and any(
            row["state"] == "parked" and row["command"] == step.id and (row["step"] or 1 << 30) <= step.step
            for row in self.parked.values()
        )

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _command(
        self,
        command_id: int,
        where: Callable[[Row], bool],
        state: str,
        progress: Mapping[str, Any] | None = None,
        outcome: str | None = None,
    ) -> Found:
        row = self.commands.get(command_id)
        if row is None or row["state"] not in OPEN or not where(row):
            return []
        self.commands[command_id] = {**row, "state": state, "progress": {**row["progress"], **(progress or {})}}
        if outcome is not None:
            self.commands[command_id]["outcome"] = outcome
        self.wrote()
        return [self.commands[command_id]]

    def waiting(self) -> Found:
        return self._of("parked")

    def _of(self, *states: str) -> Found:
        return [row for row in self.parked.values() if row["state"] in states]

    def _set(self, row: Row, **values: Any) -> None:
        self.parked[row["seq"]] = {**row, **values}
        self.wrote()


def chosen(row: Row, params: Mapping[str, Any]) -> bool:
    """Whether a filter chooses the row."""
    key: str | None = params["key"]
    return bool(row["seq"] <= params["upto"] and (key is None or row["hold_key"] == key.encode()))


def _class(kind: str) -> str:
    return kind if kind in FOR_HALTED else "desk"


_EMPTY: Final = State(Lsn(0), {}, {}, UNSUSPECTED, Ground(), counts=False)
