"""`dovetail relay accept`: what has changed under the relay is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dovetail_relay.cli.choosing import Withdraw
from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.operator import NEEDS, confirmed, joined, print_one, reason_of, say_one, see_through
from dovetail_relay.cli.words import say
from dovetail_relay.errors import PublicationChanged

if TYPE_CHECKING:
    from dovetail_relay.operate.diagnosis import Diagnosis

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_ROWS_BETWEEN = (
    "rows that were inserted while the publication was another one may not have been published, and are not looked "
    "for here: dovetail doctor says how all of them go out; afterwards dovetail reconcile names those that are missing"
)
_KEYS_MOVE = "keys have moved: events of one key may lie in two partitions, and readers may see the newer one first"


@app.command("accept")
def accept(
    context: typer.Context,
    *,
    reason: Annotated[str | None, typer.Option(help="Why; for the audit log.", envvar="DOVETAIL_REASON")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what was recorded and what is now.",
                                          envvar="DOVETAIL_DRY_RUN")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Only follow the one that is under way.",
                                         envvar="DOVETAIL_FOLLOW")] = False,
    withdraw: Withdraw = False,
) -> None:  # fmt: skip
    """Cure PUBLICATION_CHANGED and PARTITIONS_CHANGED: record what is there now, and go on from it."""
    from dovetail_relay.operate.commands import submit
    from dovetail_relay.operate.diagnosis import diagnose

    given = invocation(context)
    settings = given.settings(needs=NEEDS)
    if joined(settings, "accept", given.output, reason_of(reason), follow=follow, withdraw=withdraw, dry_run=dry_run):
        return
    why = None if dry_run else reason_of(reason, required=True)
    seen = diagnose(settings)
    now = seen.facts.publication_fingerprint
    changed = now != seen.row.publication_fingerprint
    if not changed and not seen.grown:
        raise NothingToDo("NOTHING_CHANGED: publication and partitions are those that are recorded")
    changes = {"relay": settings.relay.name, **_changes(seen, changed=changed)}
    if dry_run:
        print_one(changes, given.output)
    else:
        say_one(changes)
    if now is None:
        raise PublicationChanged(
            f"publication {settings.outbox.publication!r} does not exist: there is nothing to accept",
            remedy="dovetail doctor",
        )
    if changed and seen.unfit:
        raise PublicationChanged(f"the publication is not fit: {seen.unfit}", remedy="dovetail doctor")
    for risk in [text for text, met in ((_ROWS_BETWEEN, changed), (_KEYS_MOVE, bool(seen.grown))) if met]:
        say(f"the risk: {risk}")
    if dry_run:
        return
    confirmed("Accept what is there now?", yes=yes)
    partitions = {topic: count for topic, (_, count) in seen.grown.items()}
    before = {"publication": seen.row.publication_fingerprint, "partitions": seen.recorded}
    command = submit(settings, "accept", {"publication": now, "partitions": partitions}, reason=why, before=before)
    see_through(settings, command, given.output)


def _changes(seen: Diagnosis, *, changed: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if changed:
        shown["publication_recorded"] = seen.row.publication_fingerprint
        shown["publication_now"] = seen.facts.publication_fingerprint
        if seen.publication is not None:
            shown["published_now"] = seen.publication.line()
    if seen.grown:
        shown["partitions"] = {topic: f"{before} recorded, {now} now" for topic, (before, now) in seen.grown.items()}
    return shown
