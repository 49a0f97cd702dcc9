"""Rows that end the process that has them in hand, and the judge's own count of who ended where.

The relay counts in the database; the judge counts deaths as they happen. So it knows whether a row was blamed for
nothing, and whether poison took more processes than the rule allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from simulation.checks import check
from simulation.rows import SILENT
from simulation.session import Killed

from dovetail_relay.desk.desk import KINDS, MANY_ATTEMPTS
from dovetail_relay.nouns import Lsn, Place, parse_lsn
from dovetail_relay.suspicion import AT_ALL, IN_HAND, MANY_STARTS

if TYPE_CHECKING:
    from simulation.relay import Relay
    from simulation.world import World

# So many processes may end before one takes the rows one by one, and so many more until the row is found. The first of
# them came on to the place where the others begin.
_UNSEEN: Final = 1 + MANY_STARTS - 1
_MOST_IN_HAND: Final = _UNSEEN + IN_HAND
_MOST_IN_KAFKA: Final = _UNSEEN + AT_ALL
# The first one that goes on with a command has nothing to count from.
_MOST_AT_DESK: Final = 1 + MANY_ATTEMPTS


class InHand:
    """Where one process stands with the row that it has noted."""

    __slots__ = ("handed_over", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.handed_over = False


class Poison:
    """`in_hand` and `in_kafka` are rows: of the one kind decoding dies, of the other the Kafka client."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.in_hand: set[int] = set()
        self.in_kafka: set[int] = set()
        self.ever: set[int] = set()
        # A command's step is being made.
        self.at_desk = False
        # Deaths with a row noted: all, and those with it in hand.
        self._ends: Counter[Place] = Counter()
        self._ends_in_hand: Counter[Place] = Counter()
        # Deaths by one row in a row, with nothing between them that begins a count anew.
        self._streak: tuple[object, int] = (None, 0)
        self._at_desk: Counter[int] = Counter()
        self.calm = False
        # So many processes somebody else will still kill, each as it begins or has noted a row.
        self.kills = 0

    def spoil(self, rows: list[int], likely: float) -> None:
        chance = self._world.aside
        for n in rows:
            if n % SILENT != SILENT - 1 and chance() < likely:
                (self.in_hand if chance() < 0.6 else self.in_kafka).add(n)
                self.ever.add(n)

    def cure(self) -> None:
        """Another release of the library."""
        self.in_hand.clear()
        self.in_kafka.clear()

    # -- it strikes ---------------------------------------------------------------------------------------------------

    def touch(self, n: int) -> None:
        """The row is decoded, routed, encoded."""
        if n in self.in_hand:
            raise Killed(n, at_desk=self.at_desk)

    def settle(self, relay: Relay, written: list[tuple[int, int]], replayed: int) -> None:
        """The Kafka client has these."""
        for _, what in written:
            n = what % replayed if what >= 0 else -1 - what
            if n in self.in_kafka:
                flight = None if relay.pipeline is None else relay.pipeline.in_flight
                raise Killed(n, at_desk=flight is not None and flight.batch.command is not None)

    def _struck(self, n: int) -> None:
        most = _MOST_IN_HAND if n in self.in_hand else _MOST_IN_KAFKA
        newest, epoch = self._world.broker.newest, self._world.database.row.epoch
        what = (n, epoch, None if newest is None else newest.seq)
        before, times = self._streak
        self._streak = (what, times + 1 if before == what else 1)
        check(self._streak[1] <= most, f"poison {n} has ended {self._streak[1]} processes in a row, {most} are allowed")

    def _struck_at_desk(self) -> None:
        for row in self._world.database.tables.commands.values():
            if row["state"] == "running" and row["kind"] in KINDS and self.calm:
                self._at_desk[row["id"]] += 1
                times = self._at_desk[row["id"]]
                check(times <= _MOST_AT_DESK, f"command {row['id']} has ended {times} processes in a row")

    def anew(self) -> None:
        """Something else happened than that poison struck: what the relay counts may begin anew."""
        self._streak = (None, 0)

    def step_done(self, command: int) -> None:
        self._at_desk.pop(command, None)

    # -- what the relay notes, and when it ends -----------------------------------------------------------------------

    def noted(self, relay: Relay, name: str, params: Mapping[str, Any]) -> None:
        seen = self._world.seen
        if name == "relay_suspects":
            place = Place(parse_lsn(params["lsn"]), params["nth"])
            again = relay.noted is None and self._ends[place] > 0
            seen["search went on at the row where it had ended"] += again
            relay.noted = InHand(place)
            self._kill(name)
        elif name == "relay_began":
            self._kill(name)
        elif name == "relay_acquitted":
            seen["search over"] += relay.noted is not None
            relay.noted = None
            self.anew()

    def _kill(self, name: str) -> None:
        if self.kills and self._world.aside() < 0.7:
            self.kills -= 1
            self._world.seen[f"killed at {name}"] += 1
            raise Killed

    def ended(self, relay: Relay, by: Killed | None = None) -> None:
        """Without a word: killed, or with the lock gone."""
        if by is not None and by.row is not None:
            kind = "in hand" if by.row in self.in_hand else "in Kafka"
            self._world.seen[f"poison struck {'at the desk' if by.at_desk else kind}"] += 1
            # What a process does after its first reign counts for nothing.
            counts = relay.suspicion is not None
            if counts and not by.at_desk:
                self._struck(by.row)
            else:
                self.anew()
            if counts and by.at_desk:
                self._struck_at_desk()
        else:
            self.anew()
        noted = relay.noted
        if noted is not None:
            self._ends[noted.place] += 1
            self._ends_in_hand[noted.place] += not noted.handed_over
            relay.noted = None

    def blamed(self, n: int, place: Place) -> None:
        """A row is parked unseen, or halts the relay: only if as many ended at it as it says.

        Of the first that did the relay cannot know whether it had the row in hand still.
        """
        ends, in_hand = self._ends[place], self._ends_in_hand[place]
        right = ends >= AT_ALL or (ends >= IN_HAND and in_hand >= IN_HAND - 1)
        check(right, f"row {n} is blamed, and {ends} processes ended at it, {in_hand} with it in hand")
        self._world.seen["innocent row blamed for kills"] += n not in self.ever
        self._world.seen["row from before the slot blamed"] += place.commit_lsn == Lsn(0)
