"""What a recovery begins from: which halts it cures, and from which transaction on rows may be missing. Pure."""

from __future__ import annotations

from typing import Final

from dovetail_relay.errors import CheckpointLost, Diverged, Gap, Halt, SlotLost
from dovetail_relay.machine import check_timeline
from dovetail_relay.nouns import Checkpoint, RelayRow, ServerFacts, TimelineSwitch

CURED: Final[tuple[type[Halt], ...]] = (Gap, SlotLost, CheckpointLost, Diverged)


def divergence(
    facts: ServerFacts, row: RelayRow, found: Checkpoint | None, history: tuple[TimelineSwitch, ...]
) -> str | None:
    """Why what was published may not be what this server holds, None where the checkpoint lies in its past.

    Asked in every recovery: a lost slot is named first, and hides that the server is another one as well.
    """
    known = {row.system_id, *(() if found is None else (found.system_id,))}
    if known != {facts.system_id}:
        return f"the server's system id is {facts.system_id}, known is {', '.join(sorted(known - {facts.system_id}))}"
    if found is None:
        return None
    try:
        check_timeline(facts, found, history)
    except Diverged as diverged:
        return str(diverged)
    return None


def trusted(facts: ServerFacts, row: RelayRow, found: Checkpoint, history: tuple[TimelineSwitch, ...]) -> bool:
    """Whether the checkpoint is this relay's, and speaks of this server's past."""
    same = (found.database, found.slot) == (facts.database, row.slot)
    return same and divergence(facts, row, found, history) is None


def tells_what_is_parked(
    facts: ServerFacts, row: RelayRow, found: Checkpoint | None, history: tuple[TimelineSwitch, ...]
) -> bool:
    """Whether the checkpoint says which parked rows belong to a batch that committed; else they are judged again."""
    return found is not None and found.epoch == row.epoch and trusted(facts, row, found, history)


def horizon(facts: ServerFacts, row: RelayRow, found: Checkpoint | None, history: tuple[TimelineSwitch, ...]) -> int:
    """Each transaction below it is published or rolled back; 0 where nobody knows: then all rows are looked at.

    The checkpoint's own horizon counts only on the timeline that it was taken on: on another one the same transaction
    ids were given out again. It does not count either while rows from before a slot are still being published.
    """
    if found is None or not trusted(facts, row, found, history):
        return 0
    under_way = row.recovery_horizon
    if under_way is not None and (found.epoch < row.epoch or found.backfill is not None):
        return under_way
    if found.epoch != row.epoch or found.backfill is not None:
        return 0
    return found.horizon
