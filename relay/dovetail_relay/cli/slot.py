"""`dovetail slot`: what the server keeps for the relay, and how it is given up."""

from __future__ import annotations

from typing import Annotated

import typer

from dovetail_relay.cli.choosing import Reason, Yes
from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.operator import confirmed, print_one, reason_of
from dovetail_relay.cli.words import say

app = typer.Typer(
    help="The relay's replication slot.",
    no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip


@app.command()
def show(context: typer.Context) -> None:
    """What the server says of the slot: who uses it, where it stands, how much WAL it keeps."""
    from dovetail_relay.operate.slot import made_by, shown

    given = invocation(context)
    settings = given.settings()
    facts = shown(settings)
    if facts is None:
        raise NothingToDo(f"NO_SLOT: slot {settings.relay.slot} does not exist; next: {made_by(settings)}")
    print_one(facts, given.output)


@app.command()
def drop(
    context: typer.Context,
    *,
    slot: Annotated[
        str | None, typer.Option("--slot", help="Its name, typed in full.", envvar="DOVETAIL_SLOT_NAME")
    ] = None,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Drop the slot: the server stops keeping WAL for the relay, and what was not published never streams."""
    from dovetail_relay.operate.slot import drop as drop_slot
    from dovetail_relay.operate.slot import shown

    given = invocation(context)
    settings = given.settings(needs=("postgres.dsn", "postgres.operator_dsn"))
    why = reason_of(reason, required=True)
    if slot != settings.relay.slot:
        raise typer.BadParameter(f"type its name in full: {settings.relay.slot}", param_hint="--slot")
    facts = shown(settings)
    if facts is None:
        raise NothingToDo(f"NO_SLOT: slot {slot} does not exist; nothing was dropped")
    confirmed(f"Drop slot {slot}, confirmed up to {facts.get('confirmed_flush_lsn', '?')}?", yes=yes)
    drop_slot(settings, facts, reason=str(why))
    say(f"slot {slot} is dropped, and the relay will halt; next: dovetail recover, or first what dovetail doctor says")
