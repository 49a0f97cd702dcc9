"""From facts to a verdict: how far behind the relay is, and what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dovetail_relay.errors import CheckpointLost, Diverged, Gap, PoisonHeld, SlotLost, StuckMessage
from dovetail_relay.nouns import lsn_text
from dovetail_relay.observe.facts import DatabaseSide, Finding, Lag, Seen, Slot, Stuck

_NOBODY: Final = "NOBODY_LEADS"
# Halts that PostgreSQL and Kafka show too, where no process answers that could name its own.
_SEEN: Final = frozenset({SlotLost.name, CheckpointLost.name, Gap.name, Diverged.name, PoisonHeld.name})


def lag_of(seen: Seen) -> Lag:
    """The best number there is for each unit.

    Nothing is behind where the checkpoint stands at the end of the WAL. Else the leading relay's own count, else the
    rows above the checkpoint's horizon, which may hold some that are published by now.
    """
    database, process = seen.database, seen.process
    behind = _bytes_behind(seen)
    if behind == 0:
        return Lag(0, 0.0, 0, "positions")
    if process is not None and process.leads and process.ready and process.lag_events is not None:
        bound = None if database is None or database.rows is None else database.rows.events
        return Lag(int(process.lag_events), process.lag_seconds, behind, "relay", bound=bound)
    if database is not None and database.rows is not None:
        rows = database.rows
        if rows.events == 0:
            return Lag(0, 0.0, behind, "outbox")
        return Lag(rows.events, rows.oldest_seconds, behind, "outbox", at_most=True)
    return Lag(None, None, behind, "unknown")


def findings_of(seen: Seen, lag: Lag, max_lag_seconds: float) -> list[Finding]:
    """What is wrong, the cause before its consequences. Servers that did not answer are not among them."""
    found = [
        *_halt(seen),
        *(_database(seen.database, seen) if seen.database is not None else ()),
        *_checkpoint(seen),
        *_books(seen),
    ]
    if halt_in(seen, found) is not None:
        # A halted relay lets go of the lead, and one more would halt as well: its halt is the cause, and is said.
        found = [finding for finding in found if finding.name != _NOBODY]
    if lag.seconds is not None and lag.seconds > max_lag_seconds:
        words = "may be" if lag.at_most else "is"
        found.append(
            Finding(
                "LAGGING",
                f"the relay {words} {lag.seconds:.0f} s behind, {max_lag_seconds:g} s are allowed",
                "dovetail doctor",
            )
        )
    return found


def halt_in(seen: Seen, findings: Sequence[Finding]) -> Finding | None:
    """The halt that a relay here is in, or would be in: as its process says, else as its servers show."""
    if seen.process is not None and seen.process.halted:
        return next((found for found in findings if found.name == seen.process.reason), None)
    if seen.database is None or seen.database.leader is not None:
        return None
    return next((found for found in findings if found.name in _SEEN), None)


def _bytes_behind(seen: Seen) -> int | None:
    database, kafka = seen.database, seen.kafka
    if database is None:
        return None
    if kafka is not None and kafka.checkpoint is not None:
        return max(0, database.wal_lsn - kafka.checkpoint.end_lsn)
    if database.slot is None:
        return None
    # What was confirmed was in a checkpoint before, so this is at least the true distance. Never 0 by itself: without
    # the checkpoint nobody can say that all is published.
    return max(1, database.wal_lsn - database.slot.confirmed_flush)


def _halt(seen: Seen) -> list[Finding]:
    process = seen.process
    if process is None or process.ready or process.reason is None:
        return []
    remedy = process.next or "dovetail doctor"
    if process.halted:
        return [Finding(process.reason, "the relay has halted", remedy)]
    return [Finding("NOT_READY", f"the relay at {process.address}: {process.reason}", remedy)]


def _books(seen: Seen) -> list[Finding]:
    if seen.process is None or seen.process.books_balanced is not False:
        return []
    words = "what was published is not what the outbox holds"
    return [Finding("BOOKS_UNBALANCED", words, "dovetail reconcile")]


def _database(database: DatabaseSide, seen: Seen) -> list[Finding]:
    found: list[Finding] = []
    if database.epoch is None:
        # All else that is not there follows from it.
        return [Finding("MISCONFIGURED", f"the database has no relay {seen.relay!r}", "dovetail init")]
    if database.in_recovery:
        found.append(
            Finding("MISCONFIGURED", "this PostgreSQL is a standby; the relay needs the primary", "dovetail doctor")
        )
    found += _slot(database.slot, seen.slot)
    if database.awaited and not database.in_recovery:
        names = ", ".join(database.awaited)
        words = f"no event is sent before the standby of {names} has it (synchronized_standby_slots), and none is there"
        found.append(Finding("STANDBY_AWAITED", words, "dovetail doctor"))
    halted = seen.process is not None and seen.process.halted
    if database.leader is None:
        found.append(Finding(_NOBODY, "no relay process holds the lead", "dovetail relay run"))
    idle = None if database.leader is None else database.leader.idle_seconds
    if idle is not None and idle > seen.lease_seconds:
        # A standby would have ended it by now, so there is none.
        words = (
            f"the leader has been silent for {idle:.0f} s, the lease is {seen.lease_seconds:g} s, and nobody takes over"
        )
        found.append(
            Finding("LEADER_SILENT", words, "start a second relay (dovetail relay run), which ends the silent one")
        )
    if database.stuck is not None and not halted:
        found += _stuck(database.stuck)
    return found


def _stuck(stuck: Stuck) -> list[Finding]:
    if stuck.halting is not None:
        words = f"the relay stands before event {stuck.halting} ({stuck.reason})"
        return [Finding(PoisonHeld.name, words, f"dovetail stuck show {stuck.halting}")]
    if stuck.messages:
        return [Finding(StuckMessage.name, "messages wait that could not go out", "dovetail stuck list")]
    return []


def _slot(slot: Slot | None, name: str) -> list[Finding]:
    if slot is None:
        return [Finding(SlotLost.name, f"there is no slot {name!r}", SlotLost.default_remedy)]
    if slot.wal_status == "lost":
        return [Finding(SlotLost.name, f"PostgreSQL gave up the slot {name!r}", SlotLost.default_remedy)]
    if slot.wal_status == "unreserved":
        words = f"the next checkpoint of PostgreSQL may lose the slot {name!r}"
        return [Finding("SLOT_AT_RISK", words, "dovetail doctor")]
    return []


def _checkpoint(seen: Seen) -> list[Finding]:
    kafka, database = seen.kafka, seen.database
    if kafka is None or (database is not None and database.epoch is None):
        return []
    if kafka.problem is not None:
        remedy = f"dovetail init, then {CheckpointLost.default_remedy}" if kafka.missing else None
        return [Finding(CheckpointLost.name, kafka.problem, remedy or CheckpointLost.default_remedy)]
    checkpoint = kafka.checkpoint
    if database is None:
        return []
    if checkpoint is None:
        if database.started:
            return [Finding(CheckpointLost.name, "the checkpoint topic is empty", CheckpointLost.default_remedy)]
        return []
    found: list[Finding] = []
    # Kafka was read first, so a working leader may have confirmed more since: that is no gap.
    if database.slot is not None and database.leader is None and database.slot.confirmed_flush > checkpoint.end_lsn:
        distance = f"{lsn_text(database.slot.confirmed_flush)}, the checkpoint is at {lsn_text(checkpoint.end_lsn)}"
        found.append(Finding(Gap.name, f"the slot is confirmed up to {distance}", Gap.default_remedy))
    if database.leader is None and database.timeline not in {None, checkpoint.timeline}:
        words = f"the checkpoint is of timeline {checkpoint.timeline}, the server is on {database.timeline}"
        found.append(
            Finding("TIMELINE_CHANGED", f"{words}; a relay that starts goes on or says why not", "dovetail doctor")
        )
    if database.timeline == checkpoint.timeline and checkpoint.end_lsn > database.wal_lsn:
        words = f"the checkpoint stands at {lsn_text(checkpoint.end_lsn)}, the server's log ends before it"
        found.append(Finding(Diverged.name, words, Diverged.default_remedy))
    if checkpoint.database != database.database:
        words = f"the checkpoint is of database {checkpoint.database!r}, this is {database.database!r}"
        found.append(Finding(Diverged.name, words, "dovetail config show"))
    return found
