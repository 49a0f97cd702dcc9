"""One seed, one run: a database, a broker, two relays, and what befalls them; then calm, and the count.

Everything that happens is drawn from the seed, so a seed is a whole story and replays as it was. The promises are
checked where they are made (flush position, chain of checkpoints, outcome taken for committed) and at the end (the
topic against the table).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

from simulation.broker import Broker
from simulation.checks import Violation, check, complete, exactly_once, first_occurrences_in_order
from simulation.database import RECORDS, START, Database
from simulation.publisher import AtLeastOnce, CheckpointFirst, Publisher
from simulation.relay import Relay

from dovetail_relay.errors import CheckpointLost, Diverged, Gap, Halt
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

    def __init__(self, seed: int, seen: Counter[str]) -> None:
        self.chance = chance = Random(seed).random
        self.seen = seen
        kind = chance()
        # at_least_once; a checkpoint-first publisher, where nothing but overtaking goes wrong; exactly_once.
        self.lazy = kind < 0.15
        self.torn = 0.15 <= kind < 0.2
        self.max_rows = 1 + int(chance() * 4)
        self.row_bytes = 2
        self.max_bytes = 4 + int(chance() * 12)
        self.database = Database(chance, rows_before_slot=int(chance() * 4) if chance() < 0.2 else 0)
        self.broker = Broker(chance, seen)
        # A retry that overtakes a quick commit, unseen: the hole that the old protocol leaves. Duplicates, no loss.
        self.overtaking = self.broker.weather.overtaking = self.torn or 0.2 <= kind < 0.25
        self.holes = self.lazy and chance() < 0.2
        self.relays = (Relay("a", self), Relay("b", self))
        self.ghosts: list[object] = []
        self.now = 0
        self._weather_ends = 0
        self._to_commit = 2 + int(chance() * 5)
        self._advanced = self._deleted = False
        self._switch: Lsn | None = None
        self._halts = 0
        self._halt: Halt | None = None
        self._misfortunes: tuple[Callable[[World], None], ...] = MILD if self.torn else MISFORTUNES
        # Three quarters of the world's trouble comes to one half of the seeds.
        self._trouble = (0.02, 0.06, 0.12, 0.25)[int(chance() * 4)]

    def publisher(self) -> Publisher:
        if self.torn:
            return CheckpointFirst(self.broker)
        if self.lazy:
            publisher = AtLeastOnce(self.broker)
            publisher.holes = self.holes
            return publisher
        return Publisher(self.broker)

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._trouble_and_work()
        halt = self._calm()
        if halt is not None:
            self._judge(halt)
        else:
            self._count()

    def halted(self, halt: Halt) -> None:
        """A relay stopped and says why; it will look again."""
        self._halts += 1
        self._halt = halt

    def _trouble_and_work(self) -> None:
        chance, relays = self.chance, self.relays
        misfortunes, trouble = self._misfortunes, self._trouble
        work = trouble + 0.12
        for self.now in range(70):
            roll = chance()
            if roll < trouble:
                misfortunes[int(chance() * len(misfortunes))](self)
            elif roll < work:
                self._work()
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
            self.database.commit(int(self.chance() * 14) if many else int(self.chance() * 4))
        else:
            self.database.other_work()

    def _calm(self) -> Halt | None:
        """Everything heals; whoever was frozen wakes. What was committed must come out, and be confirmed.

        Returns the halt that stays where one does.
        """
        before, self._halts = self._halts, 0
        self.broker.weather.clear()
        self.broker.weather.overtaking = False
        while self._to_commit:
            self._work()
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
        leader = _leader(self)
        return leader.stream is not None and leader.in_flight is None

    def _count(self) -> None:
        visible, expected = self.broker.visible(), self.database.published()
        if self.lazy or self.overtaking:
            if self._switch is not None:
                # What went out before its checkpoint may be gone from the new primary's log, and nothing tells.
                committed = set(expected)
                visible = [row for row in visible if row in committed]
            complete(visible, expected)
            if not self.holes:
                first_occurrences_in_order(visible, RECORDS)
            self.seen["repeats where repeats may be"] += len(visible) > len(expected)
        else:
            exactly_once(visible, expected)

    def _judge(self, halt: Halt) -> None:
        """A halt is right only where its cause is there."""
        newest = self.broker.newest
        if isinstance(halt, Gap):
            right = self._advanced
        elif isinstance(halt, CheckpointLost):
            right = self._deleted
        else:
            right = isinstance(halt, Diverged) and self._switch is not None and newest is not None
        check(right, f"halted without a cause: {halt.name}: {halt}")
        self.seen[f"halt {halt.name}"] += 1

    # -- what befalls -------------------------------------------------------------------------------------------------

    def bad_weather(self, steps: int) -> None:
        self._weather_ends = max(self._weather_ends, self.now + steps)


def _one_relay(world: World) -> Relay:
    return world.relays[world.chance() < 0.35]


def _leader(world: World) -> Relay:
    first, second = world.relays
    return second if second.leads else first


def crash(world: World) -> None:
    relay = _leader(world)
    if relay.leads:
        world.database.leader = None
        if relay.stream is not None:
            relay.stream.close()
    relay.start()
    world.seen["relay killed"] += 1


def stop(world: World) -> None:
    """SIGTERM, as in each deployment."""
    relay = _leader(world)
    relay.stopping = relay.leads


def freeze(world: World) -> None:
    """Frozen, evicted, and awake again while the successor is at work; its stream may live on for a while."""
    relay = _leader(world)
    relay.wakes_at = world.now + 3 + int(world.chance() * 25)
    if relay.leads:
        world.database.leader = None
        if world.chance() < 0.5:
            world.database.end_stream()
    world.seen["relay frozen and evicted"] += 1


def lose_lock(world: World) -> None:
    world.database.leader = None
    world.seen["lock session lost"] += 1


def database_crash(world: World) -> None:
    world.seen["slot rewound by a crash"] += world.database.crash()


def stream_ends(world: World) -> None:
    world.database.end_stream()


def promote(world: World) -> None:
    """A failover that may or may not have what was published."""
    if world.chance() < 0.8:
        return
    database, end = world.database, world.broker.durable_end
    switch = database.insert_lsn
    if world.chance() < 0.5:  # noqa: SIM108 - one line would be too long
        switch = Lsn(max(START, switch - int(world.chance() * 12)))
    else:
        switch = max(end, START)
    if switch > database.insert_lsn:
        return
    world._switch = switch
    database.promote(switch)
    world.seen["promotion"] += 1


def outage(world: World) -> None:
    world.broker.weather.down = True
    world.bad_weather(1 + int(world.chance() * 12))
    world.seen["Kafka away"] += 1


def bad_commits(world: World) -> None:
    world.broker.weather.commit = 0.7
    world.bad_weather(1 + int(world.chance() * 25))


def bad_deliveries(world: World) -> None:
    world.broker.weather.delivery = 0.3
    world.bad_weather(1 + int(world.chance() * 15))


def slow_coordinator(world: World) -> None:
    world.broker.weather.init = world.broker.weather.read = 0.4
    world.bad_weather(1 + int(world.chance() * 20))


def late_end(world: World) -> None:
    late = world.broker.late
    if late:
        world.broker.deliver_late(int(world.chance() * len(late)))


def late_init(world: World) -> None:
    """Or a transaction that outlived its time: the same to everybody."""
    world.broker.fence()
    world.seen["epoch moved under the leader"] += 1


def late_add_partition(world: World) -> None:
    world.broker.add_partition(int(world.chance() * 2))
    world.seen["late AddPartitionsToTxn"] += 1


def late_produce(world: World) -> None:
    world.broker.late_produce()
    world.seen["late Produce"] += 1


def ghost_steps(world: World) -> None:
    """The side thread of a reign that is over goes on a little."""
    ghosts = world.ghosts
    if ghosts:
        at = int(world.chance() * len(ghosts))
        try:
            next(ghosts[at])  # type: ignore[call-overload]
        except StopIteration:
            del ghosts[at]


def advance_slot(world: World) -> None:
    """Somebody advances the slot by hand, which the server allows while nobody streams."""
    if world.chance() < 0.1 and world.database.walsender is None:
        world._advanced = True
        world.database.confirm(world.database.insert_lsn)


def delete_checkpoint(world: World) -> None:
    # Before the marker is set it is the first start once more, and nobody could know.
    if world.chance() < 0.05 and world.database.row.started:
        world._deleted = True
        world.broker.forget()


MILD: Final = (late_end, late_end, late_end, bad_deliveries)
MISFORTUNES: Final = (
    crash,
    crash,
    crash,
    stop,
    freeze,
    freeze,
    lose_lock,
    database_crash,
    stream_ends,
    promote,
    outage,
    bad_commits,
    bad_commits,
    bad_deliveries,
    slow_coordinator,
    late_end,
    late_end,
    late_end,
    late_init,
    late_add_partition,
    late_produce,
    ghost_steps,
    ghost_steps,
    advance_slot,
    delete_checkpoint,
)


def run(seed: int, seen: Counter[str]) -> None:
    """Raises Violation, with the seed in it, where a promise was broken."""
    try:
        World(seed, seen).run()
    except Violation as broken:
        raise Violation(f"seed {seed}: {broken}") from broken
