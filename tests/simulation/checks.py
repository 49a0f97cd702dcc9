"""What must hold, and how a failing seed says that it does not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from simulation.rows import KEY_OF

from dovetail_relay.parking import BEHIND

if TYPE_CHECKING:
    from simulation.world import World


class Violation(AssertionError):
    """A promise was broken. `str()` is one line: which."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


class Account:
    """The topics against the table: each event is in one place, once."""

    def __init__(self, world: World) -> None:
        self._world = world
        written = world.broker.visible()
        self._visible = [what for what in written if 0 <= what < 1000]
        self._letters = [-1 - what for what in written if what < 0]
        self._replays = Counter(what for what in written if what >= 1000)
        tables = world.database.tables
        self._expected = world.database.published()
        # What no publication sent may be missing: an operator has accepted it. A recovery may have found it.
        self._unsent = world.database.unsent() if world.commands else set[int]()
        # What stands in the table without a letter in any topic: a recovery looks for a topic once more.
        self._bare = {row["n"] for row in tables.parked.values() if row["hold_topic"].startswith("?")}
        # What the relay stood before is forgotten with the next batch that goes by.
        standing = set(tables.of_state("halting", "condemned")) - set(self._visible)
        self._parked = sorted({*tables.of_state("parked"), *standing})
        self._discarded = tables.of_state("discarded")
        self._dead = tables.of_state("dead_lettered")
        self._repeats = world.lazy or world.overtaking

    def close(self) -> None:
        world = self._world
        if world.switch is not None:
            # What went out and was lost with the old primary nobody can take back; in at_least_once nothing even tells.
            committed = set(self._expected)
            self._visible = [row for row in self._visible if row in committed]
            self._letters = [row for row in self._letters if row in committed]
        if world.switch is not None or world.lazy or world.database.row.epoch > 1:
            # The row that said so may be gone, or was never covered by a checkpoint; the letter itself was read back.
            bare = set(self._letters) | self._bare - set(self._visible)
            self._dead = sorted({row for row in self._dead if row in bare} | set(self._letters))
        self._complete()
        self._each_once()
        self._in_order()
        self._held()
        self._commands()
        poison = {*world.poison.in_hand, *world.poison.in_kafka} & {*self._visible, *self._letters}
        check(not poison, f"poison went out: {sorted(poison)}")
        world.seen["poison parked at the end"] += bool(
            {*world.poison.in_hand, *world.poison.in_kafka} & {*self._parked}
        )
        world.seen["repeats where repeats may be"] += len(self._visible) > len(self._expected)
        if world.commands:
            for name in ("parked", "discarded", "dead"):
                world.seen[f"{name} at the end"] += bool(getattr(self, f"_{name}"))

    def _complete(self) -> None:
        """Nothing lost, nothing that was never committed."""
        seen = {*self._visible, *self._parked, *self._discarded, *self._dead}
        wanted = set(self._expected)
        lost = wanted - seen - self._unsent
        check(not lost, f"lost: rows {sorted(lost)} of {self._visible}")
        self._world.seen["rows that no publication sent"] += bool(wanted - seen)
        self._world.seen["rows that no publication sent, found by a recovery"] += bool(self._unsent & seen)
        check(seen <= wanted, f"never committed: rows {sorted(seen - wanted)} of {self._visible}")

    def _each_once(self) -> None:
        if self._repeats:
            return
        places = {"published": self._visible, "parked": self._parked, "discarded": self._discarded, "dead": self._dead}
        found: dict[int, str] = {}
        for place, rows in places.items():
            for row in rows:
                check(row not in found, f"row {row} is {place} and {found.get(row)} as well: {places}")
                found[row] = place
        letters = Counter(self._letters)
        twice = sorted(row for row, times in letters.items() if times > 1)
        check(not twice, f"dead letters written twice: {twice}")
        check(set(letters) <= set(self._dead), f"dead letters of rows that are none: {sorted(letters)}, {self._dead}")

    def _in_order(self) -> None:
        """First occurrences of each key in commit order; where nothing was stuck, all of them, whatever the key."""
        world = self._world
        if not self._repeats and not world.commands and world.database.row.epoch == 1:
            check(self._visible == self._expected, f"out of order: {self._visible}")
            return
        if world.policy == "skip" or world.holes or (self._repeats and world.broker.has_refused):
            # Skipping gives up order. And what stood behind a record in its batch went out while it was being refused.
            return
        newest: dict[bytes, int] = {}
        # A discard is lost with its primary, or withdrawn before a checkpoint tells of it: what was behind it is out.
        tables = world.database.tables
        lost = set(tables.ever_given_up) if tables.went_back or world.lazy else set[int]()
        lost |= self._unsent
        seen = set(lost)
        for row in self._visible:
            key = KEY_OF[row]
            if row not in seen:
                seen.add(row)
                check(newest.get(key, -1) < row, f"key {key!r} out of order at row {row}: {self._visible}")
                newest[key] = row
        if world.policy == "hold" and not self._repeats:
            for row in set(self._parked) - lost:
                key = KEY_OF[row]
                check(newest.get(key, -1) < row, f"row {row} is held and a later one of {key!r} went out")

    def _held(self) -> None:
        """Who is first in a queue has a reason of its own to wait, unless an operator has let go those before it."""
        tables = self._world.database.tables
        let_go = any(command["kind"] in ("release", "discard") for command in tables.commands.values())
        if let_go or tables.went_back or self._repeats or self._world.database.row.epoch > 1:
            return
        first: set[tuple[str, bytes]] = set()
        for row in tables.parked.values():
            hold = (row["hold_topic"], row["hold_key"])
            if row["state"] == "parked" and hold not in first:
                first.add(hold)
                check(row["reason"] != BEHIND, f"row {row['n']} waits behind nobody")

    def _commands(self) -> None:
        world = self._world
        tables = world.database.tables
        if self._repeats or tables.went_back:
            return
        twice = sorted(what for what, times in self._replays.items() if times > 1)
        check(not twice, f"replayed twice by one command: {twice}")
        for command in tables.commands.values():
            world.seen["command given up: processes ended at its step"] += "ended at its next step" in str(
                command["outcome"]
            )
            done = command["progress"]
            if command["kind"] == "replay" and command["state"] == "done":
                out = sum(times for what, times in self._replays.items() if what // 1000 == command["id"])
                check(done.get("published", 0) == out, f"replay says {done}, {out} came out")
            if command["kind"] in ("release", "discard") and command["state"] == "done":
                moved = done.get("published", 0) + done.get("discarded", 0)
                gone = tables.let_go[command["id"]]
                check(moved == gone, f"command {command['id']} says {done}, {gone} rows went")
