"""What to do next: the decisions of exactly-once as pure functions and one small state machine, stepped per batch.

No clock, no socket, no thread: the pipeline tells it what happened and does what it says. The simulation runs this very
module against a simulated log and broker.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from dovetail_relay.bookkeeping import Bookkeeper
from dovetail_relay.errors import (
    CheckpointLost,
    CheckpointMoved,
    Diverged,
    Gap,
    Misconfigured,
    PublicationChanged,
    RecycleLimit,
    SlotLost,
)
from dovetail_relay.nouns import (
    LSN_ZERO,
    Batch,
    Checkpoint,
    Lsn,
    RelayRow,
    ServerFacts,
    TimelineSwitch,
    Verdict,
    lsn_text,
)

# So many producers in a row without one commit: something is wrong that a new producer does not cure.
MAX_RECYCLES = 20


class Step(StrEnum):
    """What the pipeline does next."""

    CONFIRM = "confirm"  # the checkpoint is durable: report its LSN to PostgreSQL
    RECYCLE = "recycle"  # outcome unknown: new producer, fence, read the checkpoint, ask again
    RESEND = "resend"  # the same batch from memory, with the checkpoint that `retry` gives


def verdict(had: Checkpoint | None, tried: Checkpoint, found: Checkpoint | None, *, all_acknowledged: bool) -> Verdict:
    """What the checkpoint read back says of a batch whose outcome is unknown.

    `tried` counts as committed only if every event was acknowledged before the commit call: a late EndTxn(commit) of an
    earlier transaction can make the checkpoint visible without them.
    """
    if found is not None and found.position() == tried.position():
        return Verdict.COMMITTED if all_acknowledged else Verdict.TORN
    had_position = None if had is None else had.position()
    found_position = None if found is None else found.position()
    return Verdict.NOT_COMMITTED if had_position == found_position else Verdict.FOREIGN


class Machine:
    """The chain of checkpoints: which is durable, which is being tried, and what an outcome makes of them.

    Invariant: `durable` is what a `read_committed` reader finds, as far as this process can know; only `durable` is
    ever reported to PostgreSQL. At most one attempt is under way.
    """

    def __init__(self, durable: Checkpoint, *, writer: str, timeline: int) -> None:
        self.durable = durable
        self._writer = writer
        self._timeline = timeline
        self.written = durable.seq > 0  # False for the very first, and for the first of a recovery
        self.before: Checkpoint | None = None  # what a reader finds until then
        self.attempt: Checkpoint | None = None
        # What a reader finds while not all of its events are out: never the base, never reported.
        self.torn: Checkpoint | None = None
        # at_least_once: delivered, but not yet covered by a checkpoint in Kafka.
        self.pending: Checkpoint | None = None
        self.recycles = 0
        self._command_settled = False
        # The log's position behind the newest write to the database that what comes next takes for granted.
        self._rests_on = LSN_ZERO
        # The head of the audit log, as the next checkpoint carries it.
        self.audit = durable.audit
        # Who says what a batch adds to the books; without one they stay as they are.
        self.bookkeeper: Bookkeeper | None = None

    @property
    def base(self) -> Checkpoint:
        """Where the next batch starts from: in at_least_once that may lie beyond what is durable."""
        return self.pending or self.durable

    def propose(self, batch: Batch, *, horizon: int) -> Checkpoint:
        """The checkpoint that goes with `batch`. A second attempt while one is open is a programming error.

        A command's step stays in every checkpoint until it is settled in the database, so that it can be settled
        however late.
        """
        if self.attempt is not None:
            raise RuntimeError("a batch is under way already")
        base = self.base
        self.attempt = replace(
            base,
            seq=(self.torn or self.durable).seq + 1,
            writer=self._writer,
            timeline=self._timeline,
            end_lsn=batch.end_lsn,
            part=batch.part,
            backfill=batch.backfill,
            horizon=horizon,
            parked_lsn=max(base.parked_lsn, self._rests_on),
            command=batch.command or (None if self._command_settled else base.command),
            books=base.books if self.bookkeeper is None else self.bookkeeper.after(base.books, batch),
            audit=self.audit,
        )
        self._command_settled = False
        return self.attempt

    def command_settled(self) -> None:
        """The step that the durable checkpoint carries is settled: the next checkpoint may forget it."""
        self._command_settled = True

    def rests_on(self, lsn: Lsn) -> None:
        """What is parked, marked or dropped before `lsn` is taken for granted from here on: a promoted server that
        lacks it would hold back what is published, or publish what it should hold back."""
        self._rests_on = max(self._rests_on, lsn)

    def abandon(self) -> None:
        """The batch under way came to nothing and is taken again from the stream, knowing more than before.

        A producer that came to nothing because of one record is no sign of a broken Kafka: the count begins anew.
        """
        self.attempt = None
        self.recycles = 0

    def must_write(self, *, lazy: bool, due: bool) -> bool:
        """Whether the checkpoint goes out with the batch; only at_least_once (`lazy`) may leave it for later.

        The very first one may not be left: the relay is marked as started behind it, and a relay that has started and
        finds no checkpoint halts.
        """
        return not lazy or due or not self.written

    def committed(self) -> Step:
        """The commit returned success, quickly enough that no hidden retry is possible."""
        self._settle()
        return Step.CONFIRM

    def delivered(self) -> None:
        """at_least_once: the events are out, their checkpoint comes with a later batch."""
        if self.attempt is None:
            raise RuntimeError("no batch is under way")
        self.pending, self.attempt = self.attempt, None
        self.recycles = 0

    def unknown(self) -> Step:
        """Anything else than a quick success: the producer is never used again."""
        self.recycles += 1
        if self.recycles > MAX_RECYCLES:
            raise RecycleLimit(f"{MAX_RECYCLES} Kafka producers in a row came to nothing")
        return Step.RECYCLE

    def recycled(self, found: Checkpoint | None, *, all_acknowledged: bool) -> Step:
        """A new producer has fenced the old one, and `found` is what it read. Raises CheckpointMoved on another's."""
        had = self.torn or (self.durable if self.written else self.before)
        if self.attempt is None:
            if (None if found is None else found.position()) != (None if had is None else had.position()):
                raise CheckpointMoved("another relay wrote the checkpoint")
            return Step.CONFIRM
        said = verdict(had, self.attempt, found, all_acknowledged=all_acknowledged)
        if said is Verdict.COMMITTED:
            self._settle()
            return Step.CONFIRM
        if said is Verdict.FOREIGN:
            raise CheckpointMoved("another relay wrote the checkpoint")
        if said is Verdict.TORN:
            # The checkpoint is there, its events are not all: they go out once more behind it. It is not the base: were
            # the batch given up after all, its events would be behind what is durable.
            self.torn = self.attempt
            self.attempt = replace(self.attempt, seq=self.attempt.seq + 1, writer=self._writer)
        return Step.RESEND

    def _settle(self) -> None:
        if self.attempt is None:
            raise RuntimeError("no batch is under way")
        self.durable, self.attempt, self.pending, self.torn = self.attempt, None, None, None
        self.written = True
        self.recycles = 0


def admit(
    facts: ServerFacts, row: RelayRow, found: Checkpoint | None, history: tuple[TimelineSwitch, ...]
) -> Checkpoint | None:
    """Whether a leader may stream, step 4. Returns the checkpoint to go on from, None where one begins: at the very
    first start, and at the start of a recovery.

    Raises the named halt otherwise. Nothing has been written when it raises.
    """
    if facts.in_recovery:
        raise Misconfigured("this server is a standby (pg_is_in_recovery); connect to the primary")
    # A recovery has begun and nothing of it is in the topic yet: what is found there speaks of what was lost.
    rebased = row.recovery_horizon is not None and (found is None or found.epoch < row.epoch)
    checkpoint_id = None if found is None or rebased else found.system_id
    for known, where in ((row.system_id, "dovetail.relay"), (checkpoint_id, "the checkpoint")):
        if known is not None and known != facts.system_id:
            raise Diverged(f"the server's system id is {facts.system_id}, {where} knows {known}")
    _check_slot(facts, row)
    if facts.publication_fingerprint != row.publication_fingerprint:
        raise PublicationChanged("the publication is not the one that init recorded")
    if found is None or rebased:
        if row.started and not rebased:
            raise CheckpointLost("this relay has run before, and its checkpoint topic holds no checkpoint of it")
        if facts.confirmed_flush > row.consistent_point:
            raise Gap(f"slot {row.slot} is confirmed at {lsn_text(facts.confirmed_flush)}, beyond its first position")
        return None
    if (found.database, found.slot) != (facts.database, row.slot) or found.epoch != row.epoch:
        raise CheckpointLost(
            f"the checkpoint speaks of database {found.database!r}, slot {found.slot!r}, epoch {found.epoch}; "
            f"this relay is {facts.database!r}, {row.slot!r}, {row.epoch}"
        )
    check_timeline(facts, found, history)
    if facts.confirmed_flush > found.end_lsn:
        raise Gap(
            f"slot {row.slot} is confirmed at {lsn_text(facts.confirmed_flush)}, "
            f"the checkpoint stands at {lsn_text(found.end_lsn)}"
        )
    return found


def _check_slot(facts: ServerFacts, row: RelayRow) -> None:
    if not facts.slot_found:
        raise SlotLost(f"replication slot {row.slot!r} does not exist")
    if not facts.slot_plugin:
        raise SlotLost(f"slot {row.slot!r} is a physical slot, not a logical one of pgoutput")
    if facts.slot_plugin != "pgoutput":
        raise SlotLost(f"slot {row.slot!r} decodes with {facts.slot_plugin!r}, not pgoutput")
    if facts.slot_database != facts.database:
        raise SlotLost(f"slot {row.slot!r} belongs to database {facts.slot_database!r}, not {facts.database!r}")
    if facts.confirmed_flush == LSN_ZERO:
        raise SlotLost(f"slot {row.slot!r} was never finished: whoever was making it has ended")
    if facts.slot_lost:
        raise SlotLost(f"slot {row.slot!r} was invalidated: the server removed WAL that it needed")
    if facts.slot_temporary:
        raise SlotLost(f"slot {row.slot!r} was still being synchronised when this server was promoted")


def check_timeline(facts: ServerFacts, found: Checkpoint, history: tuple[TimelineSwitch, ...]) -> None:
    """Whether the checkpoint lies on this timeline or before the switch from its own; raises Diverged."""
    if facts.timeline == found.timeline:
        if found.end_lsn > facts.wal_lsn:
            raise Diverged(
                f"the checkpoint stands at {lsn_text(found.end_lsn)}, and the server's log ends at "
                f"{lsn_text(facts.wal_lsn)}: it was put back to an earlier moment"
            )
        return
    switches = {switch.timeline: switch.switch_lsn for switch in history}
    switch_lsn = switches.get(found.timeline)
    if switch_lsn is None:
        raise Diverged(f"timeline {found.timeline} of the checkpoint is no ancestor of timeline {facts.timeline}")
    for what, lsn in (("the checkpoint", found.end_lsn), ("what it says of parked messages", found.parked_lsn)):
        if lsn > switch_lsn:
            raise Diverged(
                f"{what} stands at {lsn_text(lsn)}, beyond {lsn_text(switch_lsn)} where timeline {found.timeline} ended"
            )
    if found.part is not None and found.part.commit_lsn >= switch_lsn:
        raise Diverged(f"part of a transaction was published whose commit lies beyond {lsn_text(switch_lsn)}")
