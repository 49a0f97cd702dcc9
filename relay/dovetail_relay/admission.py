"""Step 4: whether this leader may stream, and from where. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from dovetail_relay.config import Settings
from dovetail_relay.errors import CheckpointLost, Misconfigured
from dovetail_relay.halted import require_recorded
from dovetail_relay.machine import Machine, admit
from dovetail_relay.nouns import LSN_ZERO, Checkpoint, RelayRow
from dovetail_relay.publish.port import Publisher
from dovetail_relay.recovery import Ground
from dovetail_relay.source import timeline
from dovetail_relay.source.lead import LockSession


@dataclass(frozen=True, slots=True)
class Admitted:
    """Where to go on from. `begins`: nothing of `base` is in the topic yet, where `found` is."""

    row: RelayRow
    base: Checkpoint
    found: Checkpoint | None
    begins: bool
    timeline: int

    def machine(self, writer: str) -> Machine:
        """The chain of checkpoints that begins here."""
        machine = Machine(self.base, writer=writer, timeline=self.timeline)
        machine.written = not self.begins
        machine.before = self.found
        return machine


def survey(
    session: LockSession, settings: Settings, replication: psycopg.Connection, found: Checkpoint | None
) -> Ground:
    """What there is to stand on. Raises Misconfigured where no relay could."""
    row = session.relay_row()
    if session.messages_promised() and not settings.outbox.messages:
        raise Misconfigured(
            "services were told that logical messages are read, and outbox.messages is off: they would be lost",
            remedy="set outbox.messages = true, or dovetail init once nobody emits any",
        )
    system_id, now = timeline.identify(replication)
    history = timeline.history(replication, now)
    facts = session.server_facts(system_id, now, settings.outbox.publication)
    return Ground(facts, row, found, history)


def admitted(
    ground: Ground, session: LockSession, publisher: Publisher, topic: str, unreadable: CheckpointLost | None
) -> Admitted:
    """The checks. Raises the named halt; `unreadable` is what was wrong with the checkpoint that could not be read."""
    facts, row, found = ground.facts, ground.row, ground.found
    if unreadable is not None and (row.recovery_horizon is None or publisher.partitions(topic, timeout=5.0) is None):
        raise unreadable
    base = admit(facts, row, found, ground.history)
    counts = session.partition_counts()
    require_recorded(publisher, counts)
    # A topic that is not there now may be made anew, with more.
    publisher.expect(counts)
    return Admitted(row, base or _first(ground), found, base is None, facts.timeline)


def _first(ground: Ground) -> Checkpoint:
    """The base of what begins at the slot's own beginning: the very first checkpoint, or the first of a recovery."""
    facts, row, found = ground.facts, ground.row, ground.found
    return Checkpoint(
        epoch=row.epoch,
        seq=0 if found is None else found.seq,
        writer="",
        system_id=facts.system_id,
        timeline=facts.timeline,
        database=facts.database,
        slot=row.slot,
        end_lsn=row.consistent_point,
        backfill=0 if row.snapshot is not None else None,
        horizon=row.recovery_horizon or 0,
        parked_lsn=LSN_ZERO,
        command=None if found is None else found.command,
        audit=None if found is None else found.audit,
    )
