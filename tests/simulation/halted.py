"""The relay's own Halted, Recovery and Watch, with what they ask of a server: a new slot, the outbox, the topics."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from simulation.publisher import REPLAYED
from simulation.session import Killed

from dovetail_relay import halted, recovery
from dovetail_relay.nouns import RelayRow, lsn_text
from dovetail_relay.observe.readback import Sighting
from dovetail_relay.recovery import Ground, Hands, Refused
from dovetail_relay.setup.slot import NewSlot
from dovetail_relay.source.commands import Command
from dovetail_relay.watch import Watch

if TYPE_CHECKING:
    from simulation.relay import Relay

# What the rooms read of the settings.
SETTINGS: Final[Any] = SimpleNamespace(
    relay=SimpleNamespace(name="sim", slot="sim"),
    outbox=SimpleNamespace(publication="dovetail", foreign=False, messages=False),
    checkpoint_topic="checkpoints",
)


def hands_of(relay: Relay) -> Hands:
    """What the reign lends. The side thread is not asked: nothing comes between."""

    def on_step(step: str) -> None:
        if relay.world.deadly and relay.world.strikes(step, 5):
            raise Killed

    return Hands(
        SETTINGS, relay.session, aside=lambda job: job(), touch=relay._touch, stopping=lambda: relay.stopping,
        on_step=on_step,
    )  # fmt: skip


class Recovery(recovery.Recovery):
    """Looks on, and answers for the server."""

    def __init__(self, relay: Relay, hands: Hands) -> None:
        super().__init__(hands)
        self._relay = relay

    def rebase(self, ground: Ground, command: Command) -> None:
        seen = self._relay.world.seen
        before = ground.row.recovery_horizon
        super().rebase(ground, command)
        seen["recovery begun anew while one was under way"] += before is not None
        seen["recovery from a horizon"] += bool(self._relay.database.row.recovery_horizon)

    def finish(self, row: RelayRow) -> None:
        self._relay._touch()
        super().finish(row)
        self._relay.world.seen["recovery over"] += 1

    @contextmanager
    def _made_anew(self, command: Command) -> Iterator[NewSlot]:  # type: ignore[override]
        del command
        database = self._relay.database
        database.make_slot()
        database.other_work()
        yield NewSlot("7", lsn_text(database.confirmed), str(database.rows_before(database.confirmed)))

    def _ask(self, query: str, row: RelayRow, **more: object) -> dict[str, Any]:
        del more
        database = self._relay.database
        missing = len(database.unpublished(row, database.tables.seen, 0))
        if query == "recovery_missing":
            return {"missing": missing}
        doubtful = sum(held["step"] is not None for held in database.tables.waiting())
        return {"rows": missing, "sought": missing + doubtful, "since": 0.0, "aggregatetypes": None}

    def _in_compacted(self, aggregatetypes: Collection[str]) -> dict[str, list[str]]:
        """No topic here throws anything away."""
        del aggregatetypes
        return {}

    def _sightings(self, found: dict[str, Any]) -> Iterator[list[Sighting]]:
        """The rows that are in the topics, dead letters and replays included."""
        del found
        world = self._relay.world
        if world.deadly and world.chance() < 0.1:
            world.lose_slot()
        rows = [what % REPLAYED if what >= 0 else -1 - what for what in world.broker.visible()]
        yield [Sighting(UUID(int=n), "") for n in rows]


class Halted(halted.Halted):
    """Looks at the publication itself."""

    def __init__(self, relay: Relay, hands: Hands) -> None:
        self.recovery = Recovery(relay, hands)
        super().__init__(hands, self.recovery, relay.publisher)
        self._facts = relay.database.tables
        self.watch = Watch(relay.session, SETTINGS.outbox.publication, self)

    def _refuse_unfit(self) -> None:
        if not self._facts.ground.fit:
            raise Refused("the publication is not fit")
