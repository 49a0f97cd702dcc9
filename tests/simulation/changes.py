"""What changes under the relay, and the operator who accepts it: the publication, and a topic's partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from simulation.checks import check
from simulation.stored import OPEN

if TYPE_CHECKING:
    from simulation.world import World


class Changes:
    """Nothing changes unless `begin` says so. The judge of each acceptance is here as well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._often, self._retires = 0.0, 0.0
        self._ambushes = 0
        self._made = 0
        # What the operator was shown; what they answer to may be another thing by then.
        self._shown: dict[str, Any] | None = None
        self.most_partitions = world.broker.partitions
        # Commands by which something was recorded.
        self.recorded_by: list[int] = []
        world.database.tables.on_accept = self._accepted
        world.broker.most_partitions = lambda: self.most_partitions

    def begin(self) -> None:
        chance = self._world.aside
        self._often = 0.06 if chance() < 0.15 else 0.0
        self._retires = 0.05 if chance() < 0.2 else 0.0
        if chance() < 0.08:
            self._ambushes, self._retires = 2, 0.2

    def ambush(self, params: Mapping[str, Any]) -> bool:
        """A step is out, and nobody has settled it: the process dies, and slot and checkpoint are lost with it."""
        world = self._world
        if not self._ambushes or not params["step"] or not world.database.row.started or world.aside() < 0.5:
            return False
        if not any(row["command"] == params["command"] and row["step"] for row in world.database.tables.waiting()):
            return False
        self._ambushes -= 1
        world.lose_slot()
        world.deleted = True
        world.broker.forget()
        world.seen["checkpoint lost with a step that nobody has settled"] += 1
        return True

    def step(self) -> None:
        """Now and then something happens."""
        chance = self._world.aside
        if self._retires and chance() < self._retires:
            self.retire()
        if self._often and chance() < self._often:
            _WAYS[int(chance() * len(_WAYS))](self)

    def retire(self) -> None:
        """The ring gives up what lies long behind the checkpoint; what waits of it waits on."""
        world = self._world
        tables, row, newest = world.database.tables, world.database.row, world.broker.newest
        if newest is None or row.recovery_horizon is not None or newest.epoch != row.epoch:
            return
        old = {
            held["n"]
            for held in tables.waiting()
            if held["epoch"] == row.epoch and 0 < held["lsn"] < newest.end_lsn and world.aside() < 0.5
        }
        if old - tables.ground.gone:
            tables.change(gone=tables.ground.gone | old)
            world.seen["row that waits is gone from the outbox"] += 1

    def settled(self) -> bool:
        """A change of the publication is seen by whoever streams; of the partitions, by who asks."""
        ground = self._world.database.tables.ground
        return ground.publication == ground.recorded

    def mend(self) -> None:
        """Whatever was wrong with the publication."""
        if not self._world.database.tables.ground.fit:
            self._make_publication(fit=True)

    def answer(self) -> None:
        """To a halt: as it should be is made of it what is wrong, and that is accepted."""
        self.mend()
        self._show()
        self._accept()

    # -- what happens -------------------------------------------------------------------------------------------------

    def _make_publication(self, *, fit: bool) -> None:
        self._made += 1
        self._world.database.tables.change(publication=f"p{self._made}", fit=fit)
        self._world.seen[f"publication made again, {'' if fit else 'not '}fit"] += 1

    def _again(self) -> None:
        self._make_publication(fit=True)

    def _spoil(self) -> None:
        """The outbox is taken out of it: what is committed meanwhile is sent by nobody."""
        self._make_publication(fit=False)

    def _drop(self) -> None:
        self._world.database.tables.change(publication=None, fit=False)

    def _grow(self) -> None:
        broker = self._world.broker
        if broker.partitions < 6:
            broker.partitions += 1
            self._world.seen["topic has grown"] += 1

    def _show(self) -> None:
        now = self._now()
        recorded = dict(self._world.database.tables.ground.counts)
        changed = {topic: count for topic, count in now["partitions"].items() if count != recorded[topic]}
        self._shown = {**now, "partitions": changed}

    def _now(self) -> dict[str, Any]:
        world = self._world
        there = {} if "orders" in world.broker.missing else {"orders": world.broker.partitions}
        return {"publication": world.database.tables.ground.publication, "partitions": there}

    def _accept(self) -> None:
        """The CLI asks where there is nothing to accept, or nothing fit; but its row may come from elsewhere."""
        if self._shown is None:
            self._show()
        shown, self._shown = self._shown or {}, None
        if self._world.database.tables.submit("accept", **shown) is not None:
            self._world.seen["command accept"] += 1

    def _withdraw(self) -> None:
        tables = self._world.database.tables
        for row in list(tables.commands.values()):
            if row["kind"] == "accept" and row["state"] in OPEN:
                state = "withdrawn" if row["state"] == "pending" else row["state"]
                tables.commands[row["id"]] = {**row, "wanted": "withdraw", "state": state}
                tables.wrote()

    # -- the judge ----------------------------------------------------------------------------------------------------

    def _accepted(self, fingerprint: str, partitions: Mapping[str, int]) -> None:
        """What is recorded is what somebody has asked for who saw it, and what is there; nothing more."""
        tables = self._world.database.tables
        asked = [row for row in tables.commands.values() if row["kind"] == "accept" and row["state"] == "running"]
        check(len(asked) == 1, f"recorded by {len(asked)} commands")
        said = asked[0]["arguments"]
        check(
            (said["publication"], said["partitions"]) == (fingerprint, partitions),
            f"recorded is not what was seen: {said}",
        )
        now, ground = self._now(), tables.ground
        counts = {**dict(ground.counts), **partitions}
        right = now["publication"] == fingerprint and now["partitions"].items() <= counts.items()
        check(right, f"recorded is not what is there: {now}")
        check(ground.fit, "a publication was accepted that passes rows over")
        again = asked[0]["id"] in self.recorded_by and not tables.went_back
        check(not again, f"command {asked[0]['id']} was done twice")
        self.recorded_by.append(asked[0]["id"])
        self.most_partitions = max(self.most_partitions, *counts.values())
        seen = self._world.seen
        seen["publication accepted"] += fingerprint != ground.recorded
        seen["partitions accepted"] += bool(partitions)

    def close(self) -> None:
        """The end of a command, and what it did, are one."""
        tables, seen = self._world.database.tables, self._world.seen
        seen["queue looked at again by a recovery"] += bool(tables.judged_again)
        seen["queue kept whole by a recovery"] += bool(tables.kept_whole)
        seen["step in doubt found in the topics"] += bool(tables.found_out)
        for row in tables.commands.values():
            if row["kind"] != "accept":
                continue
            did, outcome = row["id"] in self.recorded_by, str(row["outcome"])
            check(tables.went_back or did == (row["state"] == "done"), f"accept {row['id']}: {did}, {row['state']}")
            seen["accept refused: it is not what was seen"] += "not what you saw" in outcome
            seen["accept refused: not fit"] += "not fit" in outcome
            seen["accept refused: nothing to do"] += "nothing to do" in outcome


_WAYS: Final[tuple[Callable[[Changes], None], ...]] = (
    Changes._again,
    Changes._spoil,
    Changes._drop,
    Changes.mend,
    Changes._grow,
    Changes._grow,
    Changes._show,
    Changes.answer,
    Changes._accept,
    Changes._accept,
    Changes._withdraw,
)
