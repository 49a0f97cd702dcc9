"""What `dovetail init` does, in order; every part can be repeated and says what it found.

1. migrations (owner)            2. group roles (owner)          3. outbox columns and publication (owner)
4. topics (the relay's principal) 5. slot and relay row (the relay's role)

The topics come before the slot: from the slot's first moment the server keeps WAL for a relay that could not start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup.connect import Session, session
from dovetail_relay.setup.encoding import refuse_encoding
from dovetail_relay.setup.grants import Logins, grant, logins, publishing, replication
from dovetail_relay.setup.migrate import Phase, applied, migrate
from dovetail_relay.setup.shape import ensure_publication, moving_rows, outbox_columns
from dovetail_relay.setup.slot import OnWait, ensure_slot, relay_row, slot_facts
from dovetail_relay.setup.steps import Step
from dovetail_relay.setup.topics import Cluster, ensure_topics

Report = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the caller asked for. `change` is False for `--check`."""

    logins: Logins = field(default_factory=Logins)
    change: bool = True
    phase: Phase = "all"


def install(settings: Settings, plan: Plan, report: Report, on_wait: OnWait) -> list[Step]:
    """Do it, telling each step as it is done. Raises a named error at the first thing that does not fit."""
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        report(step)

    def tell(found: Iterator[Step]) -> None:
        for step in found:
            note(step)

    with ExitStack() as opened:
        relay: Session | None = None
        owner = opened.enter_context(session(settings, "owner")) if settings.postgres.owner_dsn else None
        if owner is not None:
            refuse_encoding(owner, settings)
            tell(migrate(owner, change=plan.change, phase=plan.phase))
        else:
            relay = opened.enter_context(session(settings, "relay"))
            refuse_encoding(relay, settings)
            tell(_done_by_others(relay, settings, plan))
        if any(step.state == "missing" for step in steps):
            return steps  # --check on an empty database: nothing below could be looked at
        if owner is not None:
            tell(_as_owner(owner, settings, plan))
        relay = relay or opened.enter_context(session(settings, "relay"))
        row = relay_row(relay, settings)
        recorded = row["partition_counts"] if row else {}
        partitions = ensure_topics(Cluster(settings), recorded, note, change=plan.change)
        if any(step.what.startswith("publication") and step.state == "missing" for step in steps):
            return steps
        tell(ensure_slot(relay, settings, partitions, change=plan.change, on_wait=on_wait))
    return steps


def _as_owner(owner: Session, settings: Settings, plan: Plan) -> Iterator[Step]:
    found = logins(settings, plan.logins)
    yield from grant(owner, found, change=plan.change)
    if found.relay:
        yield replication(owner, found.relay)
    columns = outbox_columns(owner, settings)
    yield from publishing(owner, settings, change=plan.change)
    slot_exists = slot_facts(owner, settings.relay.slot) is not None
    yield from ensure_publication(owner, settings, columns, change=plan.change, slot_exists=slot_exists)
    if problem := moving_rows(owner, settings):
        yield Step(f"UPDATEs of {settings.outbox.table}", "left", problem)


def _done_by_others(relay: Session, settings: Settings, plan: Plan) -> Iterator[Step]:
    """Without the owner's DSN the tables must be there already, up to date, and services must have their right."""
    if not applied(relay):
        raise Misconfigured(
            "the database has no dovetail tables, and postgres.owner_dsn is not set to make them",
            remedy="dovetail init --owner-dsn …, or dovetail init --print-sql for the administrator",
        )
    yield from _nothing_missing(migrate(relay, change=False, phase=plan.phase), plan)
    outbox_columns(relay, settings)
    yield from _nothing_missing(publishing(relay, settings, change=False), plan)


def _nothing_missing(steps: Iterator[Step], plan: Plan) -> Iterator[Step]:
    for step in steps:
        yield step
        if step.state == "missing" and plan.change:
            raise Misconfigured(
                f"{step.what} is missing, and postgres.owner_dsn is not set to apply it",
                remedy="dovetail init --owner-dsn …, or dovetail init --print-sql for the administrator",
            )
