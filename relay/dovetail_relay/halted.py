"""What a halted leader does for an operator: it takes up the command that answers its halt, and is admitted again.

`answered` is asked when admission has raised a halt; where it says yes, the ground has changed and admission is asked
again. A command is settled here once it is done or refused, except for a recovery, which is settled when it is over.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Final

import psycopg

from dovetail_relay import rebase
from dovetail_relay.desk.arguments import problem as wrong_with
from dovetail_relay.desk.desk import KINDS
from dovetail_relay.errors import Halt, KafkaUnavailable, PartitionsChanged, PostgresUnavailable, RelayError
from dovetail_relay.logs import log
from dovetail_relay.publish.port import Publisher
from dovetail_relay.recovery import Ground, Hands, Recovery, Refused
from dovetail_relay.setup.shape import unfit
from dovetail_relay.source.commands import FOR_HALTED, Command, Commands
from dovetail_relay.telemetry import LogEvent
from dovetail_schemas.sql import queries

# How long Kafka may take to say how many partitions a topic has: half a lease.
_ASK_SECONDS: Final = 5.0


def grown(publisher: Publisher, recorded: Mapping[str, int]) -> dict[str, int]:
    """Topics that have another number of partitions than is recorded. One that is not there is none of them."""
    counts = {topic: publisher.partitions(topic, timeout=_ASK_SECONDS) for topic in recorded}
    return {topic: count for topic, count in counts.items() if count is not None and count != recorded[topic]}


def require_recorded(publisher: Publisher, recorded: Mapping[str, int]) -> None:
    """Raises PartitionsChanged where there is such a topic."""
    if changed := grown(publisher, recorded):
        each = (f"topic {topic} has {now} partitions, {recorded[topic]} are recorded" for topic, now in changed.items())
        raise PartitionsChanged(", ".join(each))


class Halted:
    """The commands for a relay that is halted, over the leader's session."""

    def __init__(self, hands: Hands, recovery: Recovery, publisher: Publisher) -> None:
        self._settings = hands.settings
        self._session = hands.session
        self._recovery = recovery
        self._publisher = publisher
        self._on_step = hands.on_step
        self._commands = Commands(hands.session, hands.settings.relay.name)

    def answered(self, halt: Halt, ground: Ground) -> bool:
        """Whether a command changed the ground. Raises what ends the reign."""
        for command in self._commands.active(*FOR_HALTED):
            if (wrong := wrong_with(command.kind, command.arguments)) is not None:
                self._fail(command, wrong)
                continue
            try:
                answer = self._accept if command.kind == "accept" else self._recover
                if answer(command, halt, ground):
                    return True
            except Refused as refused:
                self._fail(command, str(refused))
            except Halt as problem:
                self._fail(command, problem.line())
        return False

    def refuse_idle(self, recovering: int | None) -> None:
        """The relay is admitted: what still waits for a halt, but for the recovery under way, has nothing to do.

        Raises PartitionsChanged where an operator saw a topic grow before the producer's metadata did.
        """
        for command in self._commands.active(*FOR_HALTED):
            if command.id == recovering:
                continue
            if command.kind == "accept":
                try:
                    require_recorded(self._publisher, self._session.partition_counts())
                except KafkaUnavailable:
                    continue  # it waits, as the events do
            self._fail(command, "nothing to do: the relay is not halted", nothing=True)

    def tell(self, halt: Halt) -> None:
        """Whoever follows a command that a halt stops should know by which. Never raises."""
        with contextlib.suppress(RelayError):
            for command in self._commands.active(*KINDS, "recover"):
                self._commands.progress(command.id, waits_for=halt.line())

    # -- recover ------------------------------------------------------------------------------------------------------

    def _recover(self, command: Command, halt: Halt, ground: Ground) -> bool:
        if not isinstance(halt, rebase.CURED):
            if command.state == "pending":
                raise Refused(f"recover does not cure this: {halt.line()}")
            return False
        topic = self._settings.checkpoint_topic
        if self._publisher.partitions(topic, timeout=5.0) is None:
            raise Refused(f"the checkpoint topic {topic} does not exist; next: dovetail init, then dovetail recover")
        if not self._take(command):
            return False
        self._recovery.rebase(ground, command)
        return True

    # -- accept -------------------------------------------------------------------------------------------------------

    def _accept(self, command: Command, halt: Halt, ground: Ground) -> bool:
        """Record what is there now, if it is what the operator saw: in one transaction, so that it happens once."""
        now = ground.facts.publication_fingerprint
        recorded = self._session.partition_counts()
        changed = grown(self._publisher, recorded)
        if now == ground.row.publication_fingerprint and not changed:
            raise Refused(f"accept does not cure this: {halt.line()}")
        if now is None:
            raise Refused("the publication does not exist; next: dovetail doctor, which says how to make it again")
        seen = (command.arguments.get("publication"), command.arguments.get("partitions"))
        if seen != (now, changed):
            raise Refused("what is there now is not what you saw; next: dovetail relay accept --dry-run")
        if now != ground.row.publication_fingerprint:
            self._refuse_unfit()
        if not self._take(command):
            return False
        connection = self._session.connection
        try:
            with connection.transaction():
                connection.execute(
                    queries["recovery_accept"],
                    {"fingerprint": now, "partitions": json.dumps(changed), "relay": self._settings.relay.name},
                )
                self._commands.settle(
                    command.id, "done", "recorded what is there now", publication=now, partitions=changed
                )
        except psycopg.Error as error:
            raise self._session.refusal(error, "recording the publication and the partitions") from error
        self._on_step("accepted")
        log(LogEvent.COMMAND_SETTLED, "recorded what is there now", command=command.id, partitions=changed)
        return True

    def _refuse_unfit(self) -> None:
        """What the doctor fails is not accepted: rows would be passed over from then on."""
        try:
            problem = unfit(self._session.connection, self._settings)
        except LookupError as error:
            problem = str(error)
        except psycopg.Error as error:
            raise self._session.refusal(error, "looking at the publication") from error
        if problem:
            raise Refused(f"the publication is not fit: {problem}; next: dovetail doctor")

    def _take(self, command: Command) -> bool:
        taken = self._commands.take(command)
        if taken:
            log(LogEvent.COMMAND_TAKEN, f"{command.kind}, asked for by {command.actor}", command=command.id)
            self._on_step("taken")
        return taken

    def _fail(self, command: Command, outcome: str, **facts: object) -> None:
        try:
            self._commands.settle(command.id, "failed", outcome, **facts)
        except PostgresUnavailable:
            return  # somebody holds the audit log: with the next look
        log(LogEvent.COMMAND_SETTLED, outcome, command=command.id, state="failed")
