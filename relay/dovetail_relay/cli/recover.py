"""`dovetail recover`: publish what a lost slot, or a lost checkpoint, has left unpublished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dovetail_relay.cli.choosing import Withdraw
from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.operator import NEEDS, confirmed, joined, print_one, reason_of, say_one, see_through
from dovetail_relay.cli.words import Output, say

if TYPE_CHECKING:
    from dovetail_relay.config import Settings
    from dovetail_relay.operate.diagnosis import Diagnosis

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command("recover")
def recover(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look: what is missing, and what nobody can know.",
                                          envvar="DOVETAIL_DRY_RUN")] = False,
    new_epoch: Annotated[bool, typer.Option("--new-epoch", help="Go on although the server is another one, or has lost "
                                            "what was published (DIVERGED).", envvar="DOVETAIL_NEW_EPOCH")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; for the audit log.", envvar="DOVETAIL_REASON")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Only follow the recovery that is under way.",
                                         envvar="DOVETAIL_FOLLOW")] = False,
    withdraw: Withdraw = False,
) -> None:  # fmt: skip
    """Cure GAP, SLOT_LOST, CHECKPOINT_LOST and DIVERGED: a new slot, and every kept row that is in no topic."""
    from dovetail_relay.operate.commands import submit
    from dovetail_relay.operate.diagnosis import diagnose

    given = invocation(context)
    settings = given.settings(needs=NEEDS)
    if joined(settings, "recover", given.output, reason_of(reason), follow=follow, withdraw=withdraw, dry_run=dry_run):
        return
    seen = diagnose(settings)
    if dry_run:
        _look(settings, seen, given.output, new_epoch=new_epoch)
    _curable(settings, seen)
    if dry_run:
        return
    why = reason_of(reason, required=True)
    halt = seen.halt
    name = "" if halt is None else halt.name
    if name == "DIVERGED" and not new_epoch:
        raise typer.BadParameter(
            f"{halt}: what the lost past has published cannot be taken back; say that you know",
            param_hint="--new-epoch",
        )
    if not yes:
        _look(settings, seen, None, new_epoch=new_epoch)
        confirmed(f"Recover relay {settings.relay.name} from {name}?", yes=yes)
    before = {"halt": name, "message": str(halt), "epoch": seen.row.epoch}
    command = submit(settings, "recover", {"new_epoch": new_epoch}, reason=why, before=before)
    see_through(settings, command, given.output)


def _curable(settings: Settings, seen: Diagnosis) -> None:
    """Raises NothingToDo where there is nothing to recover from."""
    from dovetail_relay.rebase import CURED

    if isinstance(seen.halt, CURED):
        return
    if seen.halt is not None:
        raise NothingToDo(f"{seen.halt.name}: {seen.halt}, which recover does not cure; next: {seen.halt.remedy}")
    if seen.row.recovery_horizon is not None:
        raise NothingToDo("RECOVERING: a recovery is under way; next: dovetail recover --follow")
    anew = f"dovetail slot drop --slot {settings.relay.slot}, then dovetail recover --new-epoch"
    raise NothingToDo(
        f"NOT_HALTED: relay {settings.relay.name} has lost neither its slot nor its checkpoint; next: dovetail status, "
        f"or where you know better, {anew}"
    )


def _look(settings: Settings, seen: Diagnosis, output: Output | None, *, new_epoch: bool) -> None:
    """On stdout as `output`; None is for the person who is asked."""
    from dovetail_relay.operate.outlook import outlook

    say("reading the outbox and the topics; nothing is changed")
    found = outlook(settings, seen, new_epoch=new_epoch)
    whole: dict[str, Any] = {
        "relay": settings.relay.name,
        "halt": None if seen.halt is None else seen.halt.name,
        "message": None if seen.halt is None else str(seen.halt),
        "epoch": seen.row.epoch,
        "horizon": found.horizon,
        "rows": found.rows,
        "published": found.published,
        "parked": found.held["parked"],
        "discarded": found.held["discarded"],
        "dead_lettered": found.held["dead_lettered"],
        "missing": len(found.missing),
        "missing_ids": found.missing,
        "phantoms": None if found.phantoms is None else len(found.phantoms),
        "phantom_ids": found.phantoms,
        "unknown": found.unknown,
    }
    if output in {"json", "jsonl"}:
        print_one(whole, output)
        return
    del whole["unknown"]
    if output is None:
        say_one(whole)
    else:
        print_one(whole, output)
    for text in found.unknown:
        say(f"not known: {text}")
