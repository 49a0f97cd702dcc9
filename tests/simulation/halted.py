"""A relay that is halted, and what a recovery does: `halted.py` and `recovery.py` with the sockets left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation.session import Killed

from dovetail_relay import rebase
from dovetail_relay.desk.desk import end_in_doubt
from dovetail_relay.errors import Halt
from dovetail_relay.nouns import Checkpoint, RelayRow
from dovetail_relay.source.commands import Command, Commands
from dovetail_relay.source.parked import ParkedRows

if TYPE_CHECKING:
    from simulation.database import Database
    from simulation.world import World


class Halted:
    """Of one relay process."""

    world: World
    database: Database
    session: Any

    def _recover(self, halt: Halt, found: Checkpoint | None) -> bool:
        """Whether a command has changed the ground."""
        commands = Commands(self.session, "sim")
        for command in commands.active("recover"):
            if not isinstance(halt, rebase.CURED):
                if command.state == "pending":
                    commands.settle(command.id, "failed", "recover does not cure this")
            elif commands.take(command):
                return self._rebase(command, found, commands)
        return False

    def _rebase(self, command: Command, found: Checkpoint | None, commands: Commands) -> bool:
        database, world = self.database, self.world
        row, facts, history = database.row, database.facts(), database.history
        if rebase.divergence(facts, row, found, history) is not None and not command.arguments.get("new_epoch"):
            commands.settle(command.id, "failed", "events of the lost past are published")
            return False
        horizon = rebase.horizon(facts, row, found, history)
        told = rebase.tells_what_is_parked(facts, row, found, history)
        if found is not None and told:
            ParkedRows(self.session, "sim").drop_beyond(found)
        if found is None:
            end_in_doubt(commands)
        world.seen["recovery begun anew while one was under way"] += row.recovery_horizon is not None
        world.seen["recovery from a horizon"] += horizon > 0
        self._strike("slot dropped")
        database.drop_slot()
        self._strike("slot made")
        database.make_slot()
        self._strike("rebased")
        database.rebase(0 if found is None else found.epoch, horizon, command.id, judge_again=not told)
        self._strike("after the rebase")
        return True

    def _read_back(self) -> set[int]:
        """The rows that are in the topics, dead letters included."""
        self._strike("read back")
        if self.world.deadly and self.world.chance() < 0.1:
            self.world.lose_slot()
        seen = {what if what >= 0 else -1 - what for what in self.world.broker.visible()}
        self.database.tables.settle_doubt(seen)
        return seen

    def _finish_recovery(self, row: RelayRow) -> None:
        self._touch()
        self._strike("backfilled")
        command = row.recovery_command
        with self.session.transaction():
            self.database.row = replace(self.database.row, recovery_horizon=None, recovery_command=None)
            if command is not None:
                Commands(self.session, "sim").settle(command, "done", "recovered")
        self.world.seen["recovery over"] += 1

    def _refuse_idle(self, row: RelayRow) -> None:
        if not self.world.commands:
            return
        commands = Commands(self.session, "sim")
        for command in commands.active("recover"):
            if command.id != row.recovery_command:
                commands.settle(command.id, "failed", "nothing to do: the relay is not halted")

    def _strike(self, where: str) -> None:
        if self.world.deadly and self.world.strikes(f"recovery: {where}", 5):
            raise Killed
