"""One seed, one run: a database, a broker, two relays, an operator, and what befalls them; then calm, and the count.

Everything that happens is drawn from the seed, so a seed is a whole story and replays as it was. The promises are
checked where they are made (flush position, chain of checkpoints, outcome taken for committed) and at the end (the
topic against the table).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random
from typing import Final

from simulation.broker import Broker
from simulation.changes import Changes
from simulation.checks import Account, Violation, check
from simulation.database import START, Database
from simulation.misfortunes import MILD, Misfortune, ghost_steps, kind_of, leader
from simulation.operator import Operator
from simulation.poison import Poison
from simulation.publisher import AtLeastOnce, CheckpointFirst, Publisher
from simulation.relay import Ghost, Relay

from dovetail_relay.errors import (
    CheckpointLost,
    Diverged,
    Gap,
    Halt,
    PartitionsChanged,
    PoisonHeld,
    PublicationChanged,
    SlotLost,
)
from dovetail_relay.nouns import Lsn

# Long enough to drain all that a run holds, with every wait in it.
CALM_STEPS: Final = 3000
# A halt that is found so often in the calm is there to stay.
LOOKS: Final = 4


class Story(Counter[str]):
    """Tells each rare thing as it happens."""

    def __setitem__(self, what: str, times: int) -> None:
        if times > self[what]:
            print(what)
        super().__setitem__(what, times)


class World:
    """`run` returns when the promises held, and raises Violation otherwise."""

    def __init__(self, seed: int, seen: Counter[str], trouble: tuple[Misfortune, ...] | None = None) -> None:
        self.chance = chance = Random(seed).random
        # For what came later into this world, so that older seeds tell the same story as far as they can.
        self.aside = Random(seed ^ 0x5EED_0000_0000).random
        self.seen = seen
        kind = chance()
        # at_least_once; a checkpoint-first publisher, where nothing but overtaking goes wrong; exactly_once.
        self.lazy = kind < 0.15
        self.torn = 0.15 <= kind < 0.2
        self.max_rows = 1 + int(chance() * 4)
        self.row_bytes = 2
        self.max_bytes = 4 + int(chance() * 12)
        self.database = Database(chance, rows_before_slot=int(chance() * 6) if chance() < 0.25 else 0)
        self.broker = Broker(chance, seen)
        # A retry that overtakes a quick commit, unseen: the hole that the old protocol leaves. Duplicates, no loss.
        self.overtaking = self.broker.weather.overtaking = self.torn or 0.2 <= kind < 0.25
        self.holes = self.lazy and chance() < 0.2
        self.now = 0
        self._time = 0.0
        # What cannot go out: rows that do not fit, types without a route; what the broker refuses is the broker's.
        self.unfit: set[int] = set()
        # Rows at which the relay's own code fails, with an exception that nobody foresaw.
        self.baffling: set[int] = set()
        self.baffled = seed % 8 == 5
        self.unrouted: frozenset[str] = frozenset()
        self.policy = "hold"
        self.poison = Poison(self)
        self.changes = Changes(self)
        # How likely each statement is the last one, and how often that may still happen.
        self.deadly = 0.0
        self.deaths = 1 << 30
        # In half of the seeds something sticks, and an operator is there.
        self.commands = chance() < 0.5
        self.operator = Operator(self)
        self.relays = (Relay("a", self), Relay("b", self))
        self.ghosts: list[Ghost] = []
        self._weather_ends = 0
        self._to_commit = 2 + int(chance() * 5)
        self.advanced = self.deleted = self.dropped = False
        self.switch: Lsn | None = None
        self._halts = 0
        self._halt: Halt | None = None
        self._misfortunes = MILD if self.torn else trouble or kind_of(chance())
        # Three quarters of the world's trouble comes to one half of the seeds.
        self._trouble = (0.02, 0.06, 0.12, 0.25)[int(chance() * 4)]
        if self.commands:
            self.operator.begin()
            if not self.torn:
                self.deadly = (0.0, 0.002, 0.02)[int(chance() * 3)]

    def publisher(self, relay: Relay) -> Publisher:
        if self.torn:
            publisher: Publisher = CheckpointFirst(self.broker)
        elif self.lazy:
            publisher = AtLeastOnce(self.broker, holes=self.holes)
        else:
            publisher = Publisher(self.broker)
        publisher.relay = relay
        publisher.on_fencing = partial(relay.on_fencing, relay.reigns)
        return publisher

    def clock(self) -> float:
        return self._time

    def time_goes_by(self) -> None:
        """Mostly a little, now and then so much that something is due."""
        roll = self.chance()
        self._time += 0.01 if roll < 0.55 else 0.06 if roll < 0.85 else 1.1 if roll < 0.94 else 10.1

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._trouble_and_work()
        halt, deadly = self._calm(), 0.0 if self.torn else 0.03
        while halt is not None:
            self._judge(halt)
            if not self.commands:
                return
            # An operator answers it, and what follows must be right as well.
            self.operator.answer(halt)
            self.deaths = int(self.chance() * 4)
            halt, deadly = self._calm(deadly), 0.0
            self.seen["halt cured by an operator"] += halt is None
        Account(self).close()
        self.changes.close()

    def halted(self, halt: Halt) -> None:
        """A relay stopped and says why; it will look again."""
        self._halts += 1
        self._halt = halt
        self.seen["halted before a stuck row"] += isinstance(halt, PoisonHeld)

    def strikes(self, where: str, likely: float = 1.0, *, aside: bool = False) -> bool:
        """Whether the process dies here."""
        if not self.deaths or (self.aside if aside else self.chance)() >= self.deadly * likely:
            return False
        self.deaths -= 1
        self.seen[f"killed at {where}"] += 1
        return True

    def lose_slot(self) -> None:
        self.dropped = True
        self.database.drop_slot()
        self.seen["slot dropped"] += 1

    def note_death(self, relay: Relay) -> None:
        """What was half done when a leader died."""
        pipeline, seen, tables = relay.pipeline, self.seen, self.database.tables
        if pipeline is None:
            return
        flight = pipeline.in_flight
        seen["killed between a parked write and the commit"] += flight is not None and bool(flight.batch.parked)
        seen["killed between a step's commit and its settling"] += tables.unsettled(self.broker.newest)
        seen["killed with a step under way"] += flight is not None and flight.batch.command is not None
        seen["killed during a recovery"] += self.database.row.recovery_horizon is not None

    def _trouble_and_work(self) -> None:
        chance, relays = self.chance, self.relays
        misfortunes, trouble = self._misfortunes, self._trouble
        work = trouble + 0.12
        errands = work + 0.05 if self.commands else work
        for now in range(110 if self.commands else 70):
            self.now = now
            self.changes.step()
            roll = chance()
            if roll < trouble:
                misfortunes[int(chance() * len(misfortunes))](self)
            elif roll < work:
                self._work()
            elif roll < errands:
                self.operator.errand()
            else:
                if self.now == self._weather_ends:
                    self.broker.weather.clear()
                relay = relays[chance() < 0.35]
                if relay.wakes_at <= self.now:
                    relay.step()

    def _work(self) -> None:
        if self._to_commit and self.chance() < 0.8:
            self._to_commit -= 1
            many = self.chance() < 0.25
            rows = self.database.commit(int(self.chance() * 14) if many else int(self.chance() * 4))
            if self.commands:
                self.operator.spoil(rows)
        else:
            self.database.other_work()

    def _calm(self, deadly: float = 0.0) -> Halt | None:
        """Everything heals; whoever was frozen wakes. What was committed must come out, and be confirmed.

        Returns the halt that stays where one does.
        """
        before, self._halts = self._halts, 0
        self.deadly = deadly
        self.poison.calm = True
        self.broker.weather.clear()
        self.broker.weather.overtaking = False
        while self._to_commit:
            self._work()
        self.operator.heal()
        self.changes.mend()
        first, second = self.relays
        database, broker = self.database, self.broker
        target = database.log[-1].end_lsn if database.log else START
        for _ in range(CALM_STEPS):
            first.step()
            second.step()
            if self.ghosts:
                ghost_steps(self)
            if self._halts > LOOKS:
                return self._halt
            if database.confirmed >= target and broker.durable_end >= target and self._settled():
                self.seen["halt that healed by itself"] += before > 0
                return None
        raise Violation(f"did not drain: confirmed {database.confirmed}, wanted {target}")

    def _settled(self) -> bool:
        pipeline = leader(self).pipeline
        idle = pipeline is not None and pipeline.stream is not None and pipeline.in_flight is None
        return idle and (not self.commands or (self.changes.settled() and self.operator.through()))

    def _judge(self, halt: Halt) -> None:
        """A halt is right only where its cause is there."""
        newest = self.broker.newest
        ground = self.database.tables.ground
        if isinstance(halt, PublicationChanged):
            right = ground.publication != ground.recorded
        elif isinstance(halt, PartitionsChanged):
            right = dict(ground.counts)["orders"] != self.broker.partitions
        elif isinstance(halt, Gap):
            right = self.advanced or self.dropped
        elif isinstance(halt, CheckpointLost):
            right = self.deleted
        elif isinstance(halt, SlotLost):
            right = self.dropped or self.switch is not None
        elif isinstance(halt, PoisonHeld):
            right = self.policy == "halt"  # and `blamed` has looked at it
        else:
            right = isinstance(halt, Diverged) and self.switch is not None and newest is not None
        check(right, f"halted without a cause: {halt.name}: {halt}")
        self.seen[f"halt {halt.name}"] += 1

    # -- what befalls -------------------------------------------------------------------------------------------------

    def bad_weather(self, steps: int) -> None:
        self._weather_ends = max(self._weather_ends, self.now + steps)


def run(seed: int, seen: Counter[str], trouble: tuple[Misfortune, ...] | None = None) -> None:
    """Raises Violation, with the seed in it, where a promise was broken. `trouble`: instead of what the seed says."""
    try:
        World(seed, seen, trouble).run()
    except Violation as broken:
        raise Violation(f"seed {seed}: {broken}") from broken
