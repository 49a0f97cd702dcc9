"""The operator, and what makes one necessary: rows that stick, and commands about them, sensible and otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from simulation.checks import check
from simulation.rows import KEYS, SILENT
from simulation.stored import OPEN

from dovetail_relay.errors import Diverged, Halt, PartitionsChanged, PoisonHeld, PublicationChanged
from dovetail_relay.parking import CRASH

if TYPE_CHECKING:
    from simulation.world import World

_FORGED: Final[tuple[dict[str, Any], ...]] = (
    {"upto": "all"},
    {"upto": -1},
    {"rate": 0, "upto": 5},
    {"key": 7, "upto": 5},
)


class Operator:
    """Idle in a world where nothing sticks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._replayable = 0
        self._last: tuple[str, dict[str, Any]] | None = None
        self._clean = False
        self._answers = 0

    def begin(self) -> None:
        """How much sticks in this world, and what the routes say of it."""
        world, chance = self._world, self._chance
        self._spoiled = (0.0, 0.1, 0.3)[int(chance() * 3)]
        world.policy = ("hold", "hold", "hold", "hold", "skip", "halt")[int(chance() * (5 if world.torn else 6))]
        if chance() < 0.2:
            world.unrouted = frozenset(("fresh",))
        # In the end everything is let go, or what is stuck stays so.
        self._clean = chance() < 0.6
        self._poisoned = (0.04, 0.15)[world.aside() < 0.5] if world.aside() < 0.25 and not world.torn else 0.0
        world.poison.kills = 15 if world.aside() < 0.04 and not world.torn else 0
        if not world.torn:
            world.changes.begin()
        self._dares = world.aside() < 0.5
        self.spoil(world.database.before_slot)

    def spoil(self, rows: list[int]) -> None:
        """Some of the rows that were just committed will not go out."""
        world = self._world
        for n in rows:
            if n % SILENT == SILENT - 1:
                continue
            if self._chance() < self._spoiled:
                if self._chance() < 0.5:
                    (world.baffling if world.baffled else world.unfit).add(n)
                else:
                    world.broker.refuses |= {n, -1 - n} if self._chance() < 0.3 else {n}
        if self._poisoned:
            world.poison.spoil(rows, self._poisoned)
        self._replayable = max([self._replayable, *(n + 1 for n in rows)])

    def errand(self) -> None:
        """One thing that an operator does, or that happens to the configuration."""
        _ERRANDS[int(self._chance() * len(_ERRANDS))](self)

    def heal(self) -> None:
        """The calm: what halts the relay must be cured, a topic made; and perhaps all else as well."""
        world = self._world
        world.broker.missing.clear()
        if self._clean or world.policy == "halt":
            self.cure()
            world.unrouted = frozenset()
        tables = world.database.tables
        for row in list(tables.commands.values()):
            if row["state"] in OPEN and row["wanted"] == "pause":
                tables.want("run")

    def through(self) -> bool:
        """Whether nothing is left to do; where all is cured, what waits is released until nothing does."""
        tables = self._world.database.tables
        if any(row["state"] in OPEN for row in tables.commands.values()):
            return False
        if self._clean and tables.of_state("parked"):
            tables.submit("release", upto=tables.newest_seq())
            return False
        if self._dares and tables.because_of(CRASH):
            # Once: for all that anybody knows the library is another one by now.
            self._dares = False
            tables.submit("release", upto=tables.newest_seq())
            return False
        return True

    def answer(self, halt: Halt) -> None:
        """What ends a halt that stays."""
        self._answers += 1
        check(self._answers < 9, f"nothing cures it: {halt}")
        if isinstance(halt, PoisonHeld):
            self._pass_over()
        elif isinstance(halt, PublicationChanged | PartitionsChanged):
            self._world.changes.answer()
        else:
            self._recover(halt)

    def _pass_over(self) -> None:
        """A row that has ended the process is not tried again while the relay stands before it."""
        world = self._world
        if world.aside() < 0.5:
            world.policy = "hold"
            for relay in world.relays:
                relay.stopping = True
        else:
            tables = world.database.tables
            if tables.submit("discard", upto=tables.newest_seq()) is None:
                tables.want("withdraw")  # one that waits for just this: then once more

    def _recover(self, halt: Halt) -> None:
        world = self._world
        tables = world.database.tables
        for row in tables.commands.values():
            if row["kind"] == "recover" and row["state"] in OPEN:
                tables.commands[row["id"]] = {**row, "state": "withdrawn"}
        if isinstance(halt, Diverged) or world.switch is not None:
            tables.submit("recover", new_epoch=True)
        else:
            tables.submit("recover")

    # -- errands ------------------------------------------------------------------------------------------------------

    def submit(self, kind: str, **arguments: Any) -> None:
        world = self._world
        if world.database.tables.submit(kind, **arguments) is not None:
            self._last = (kind, arguments)
            world.seen[f"command {kind}"] += 1

    def release(self) -> None:
        """All that waits, or one key of it."""
        self.submit("release", **self._some())

    def discard(self) -> None:
        self.submit("discard", **self._some())

    def _some(self) -> dict[str, Any]:
        some: dict[str, Any] = {"upto": self._world.database.tables.newest_seq()}
        if self._chance() < 0.5:
            some["key"] = KEYS[int(self._chance() * 3)].decode()
        if self._chance() < 0.3:
            some["rate"] = 1
        return some

    def replay(self) -> None:
        rows = [n for n in range(self._replayable) if n % SILENT != SILENT - 1 and self._chance() < 0.4]
        self.submit("replay", events=rows)

    def again(self) -> None:
        """The same once more."""
        if self._last is not None:
            kind, arguments = self._last
            self._world.seen["command repeated"] += 1
            self.submit(kind, **arguments)

    def forge(self) -> None:
        """A row that somebody wrote by hand."""
        self._world.seen["command that makes no sense"] += 1
        self.submit("release", **_FORGED[int(self._chance() * len(_FORGED))])

    def withdraw(self) -> None:
        tables = self._world.database.tables
        self._world.seen["command withdrawn while it ran"] += any(
            row["state"] == "running" and row["kind"] != "recover" for row in tables.commands.values()
        )
        tables.want("withdraw")

    def pause(self) -> None:
        self._world.database.tables.want("pause" if self._chance() < 0.5 else "run")

    def ask_to_recover(self) -> None:
        self.submit("recover", new_epoch=self._chance() < 0.5)

    def cure(self) -> None:
        """Schemas are mended, limits raised, a library replaced."""
        self._world.poison.cure()
        self._world.unfit.clear()
        self._world.baffling.clear()
        self._world.broker.refuses = set()

    def cure_some(self) -> None:
        world = self._world
        world.unfit = {n for n in world.unfit if self._chance() < 0.5}
        world.baffling = {n for n in world.baffling if world.aside() < 0.5}
        world.broker.refuses = {n for n in world.broker.refuses if self._chance() < 0.5}

    def route(self) -> None:
        """A route is added, or lost: the relays begin again with it."""
        world = self._world
        if world.torn:
            return  # what is torn is mended by the reign that tore it, or by nobody
        if world.unrouted or self._chance() < 0.1:
            world.unrouted = frozenset() if world.unrouted else frozenset(("fresh",))
            world.seen["route added"] += not world.unrouted
            for relay in world.relays:
                relay.kill()

    def topic(self) -> None:
        """A topic is deleted, or made."""
        missing = self._world.broker.missing
        if missing or self._chance() < 0.5:
            missing.clear()
        else:
            missing.add("orders")


_ERRANDS: Final[tuple[Callable[[Operator], None], ...]] = (
    Operator.release,
    Operator.release,
    Operator.release,
    Operator.discard,
    Operator.replay,
    Operator.again,
    Operator.forge,
    Operator.withdraw,
    Operator.pause,
    Operator.ask_to_recover,
    Operator.cure_some,
    Operator.cure_some,
    Operator.route,
    Operator.topic,
)
