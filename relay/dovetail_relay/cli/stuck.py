"""`dovetail stuck`: messages that could not be published, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dovetail_relay.cli.choosing import (
    Class,
    DryRun,
    EventId,
    Follow,
    Key,
    Rate,
    Reason,
    Since,
    Type,
    Until,
    Withdraw,
    Yes,
    chosen_by,
    uuid_of,
)
from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import Invocation, invocation
from dovetail_relay.cli.operator import NEEDS, confirmed, joined, print_one, reason_of, see_through
from dovetail_relay.cli.words import say, show

if TYPE_CHECKING:
    from dovetail_relay.config import Settings
    from dovetail_relay.source.commands import Kind

app = typer.Typer(
    help="Messages that could not be published, and those that wait behind them.",
    no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip

Everything = Annotated[bool, typer.Option("--all", help="Everything that is stuck.", envvar="DOVETAIL_ALL")]

_COLUMNS = ("id", "key", "type", "topic", "reason", "state", "waiting", "parked_at", "message")


@app.command("list")
def list_(
    context: typer.Context,
    *,
    event_id: EventId = None,
    key: Key = None,
    event_type: Type = None,
    reason_class: Class = None,
    since: Since = None,
    until: Until = None,
    behind: Annotated[bool, typer.Option("--behind", help="Also those that only wait behind one.",
                                         envvar="DOVETAIL_BEHIND")] = False,
    settled: Annotated[bool, typer.Option("--settled", help="Also what was discarded or dead-lettered.",
                                          envvar="DOVETAIL_SETTLED")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.", envvar="DOVETAIL_LIMIT")] = 100,
) -> None:  # fmt: skip
    """What is stuck and what is first of its queue, oldest first, and how many messages wait behind each."""
    from dovetail_relay.operate.stuck import listed

    given = invocation(context)
    chosen = chosen_by(event_id=event_id, key=key, event_type=event_type, since=since, until=until, reason=reason_class)
    found = listed(given.settings(needs=NEEDS), chosen, behind=behind, settled=settled, most=limit)
    show(found, given.output, _COLUMNS)
    say(f"{len(found)} messages" + (f", the first {limit}" if len(found) == limit else ""))


@app.command("show")
def show_(
    context: typer.Context,
    event_id: Annotated[
        str | None,
        typer.Argument(metavar="[EVENT_ID]", help="Without it: the one that halts the relay, else the oldest."),
    ] = None,
) -> None:
    """One stuck message: why, where, and what waits before and behind it. Never its payload."""
    from dovetail_relay.operate.stuck import first, shown

    given = invocation(context)
    settings = given.settings(needs=NEEDS)
    wanted = first(settings) if event_id is None else uuid_of(event_id, "EVENT_ID")
    if wanted is None:
        raise NothingToDo("NOTHING_STUCK: no message is stuck")
    found = shown(settings, wanted)
    if found is None:
        raise NothingToDo(f"NOT_STUCK: no stuck message has the id {wanted}; next: dovetail status {wanted}")
    print_one(found, given.output)
    if found["state"] in {"parked", "halting"}:
        say(f"next: {_advice(found, settings)}")


def _advice(found: dict[str, Any], settings: Settings) -> str:
    from dovetail_relay.observe.advice import Case, next_of
    from dovetail_relay.parking import BEHIND

    if found["reason"] == BEHIND:
        release = f"dovetail stuck release --id {found['id']} --reason …, for nothing is before it any more"
        return f"dovetail stuck show {found['head']}, which it waits behind" if found["head"] else release
    names = ("id", "state", "reason", "message", "payload_bytes", "kept")
    return next_of(Case(**{name: found[name] for name in names}), settings.kafka.properties)


@app.command()
def release(
    context: typer.Context,
    *,
    event_id: EventId = None,
    key: Key = None,
    event_type: Type = None,
    reason_class: Class = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    rate: Rate = None,
    dry_run: DryRun = False,
    reason: Reason = None,
    yes: Yes = False,
    follow: Follow = False,
    withdraw: Withdraw = False,
) -> None:
    """Publish the queues of the chosen messages' keys, each in its order, as far as they can go out now."""
    given = invocation(context)
    chosen = chosen_by(event_id=event_id, key=key, event_type=event_type, since=since, until=until, reason=reason_class)
    _command(given, "release", chosen, everything=everything, rate=rate, dry_run=dry_run,
             reason=reason, yes=yes, follow=follow, withdraw=withdraw)  # fmt: skip


@app.command()
def discard(
    context: typer.Context,
    *,
    event_id: EventId = None,
    key: Key = None,
    event_type: Type = None,
    reason_class: Class = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    reason: Reason = None,
    yes: Yes = False,
    follow: Follow = False,
    withdraw: Withdraw = False,
) -> None:
    """Give the chosen messages up, and publish what waited behind them. The rows stay in the outbox."""
    given = invocation(context)
    chosen = chosen_by(event_id=event_id, key=key, event_type=event_type, since=since, until=until, reason=reason_class)
    _command(given, "discard", chosen, everything=everything, rate=None, dry_run=dry_run,
             reason=reason, yes=yes, follow=follow, withdraw=withdraw)  # fmt: skip


def _command(
    given: Invocation, kind: Kind, chosen: dict[str, Any], *, everything: bool, rate: float | None, dry_run: bool,
    reason: str | None, yes: bool, follow: bool, withdraw: bool,
) -> None:  # fmt: skip
    from dovetail_relay.operate.commands import submit
    from dovetail_relay.operate.stuck import naming, taken_up

    settings = given.settings(needs=NEEDS)
    if joined(settings, kind, given.output, reason_of(reason), follow=follow, withdraw=withdraw, dry_run=dry_run):
        return
    if not everything and not any(chosen.values()):
        raise typer.BadParameter("say which ones: --id, --key, --type, --class, --since, --until, or --all")
    why = reason_of(reason, required=not dry_run)
    found = taken_up(settings, chosen)
    named = [row for row in found if row["chosen"]]
    if not named:
        raise NothingToDo("NOT_STUCK: none of these is stuck, nothing was changed; next: dovetail stuck list")
    if dry_run:
        _print_plan(given, kind, found)
        return
    keys = _keys(found)
    what = _discarded(named) if kind == "discard" else f"the queues of {keys} keys, {len(found)} messages"
    confirmed(f"{kind.capitalize()} {what}?", yes=yes)
    upto = max(row["seq"] for row in found)
    arguments = {name: None if value is None else str(value) for name, value in chosen.items()}
    command = submit(
        settings, kind, {**arguments, "upto": upto, "rate": rate}, reason=why,
        also=naming([row["id"] for row in named] if kind == "discard" else []),
        before={"events": [row["id"] for row in named][:1000], "chosen": len(named), "queued": len(found)},
    )  # fmt: skip
    see_through(settings, command, given.output, pausable=True)


def _discarded(named: list[dict[str, Any]]) -> str:
    """How many, and how many of them are well."""
    from dovetail_relay.parking import BEHIND

    well = sum(row["reason"] == BEHIND for row in named)
    only = f", {well} of which are well and only wait behind another" if well else ""
    return f"{len(named)} messages{only}"


def _keys(found: list[dict[str, Any]]) -> int:
    """How many queues: one key may wait in two topics."""
    return len({(row["topic"], row["key"]) for row in found})


def _print_plan(given: Invocation, kind: Kind, found: list[dict[str, Any]]) -> None:
    gone = [row["id"] for row in found if kind == "discard" and row["chosen"]]
    out = [row["id"] for row in found if row["id"] not in set(gone)]
    print_one(
        {
            "command": kind,
            "keys": _keys(found),
            "discard": len(gone),
            "discard_ids": gone,
            "publish": len(out),
            "publish_ids": out,
        },
        given.output,
    )
    say("nothing was changed; a message whose cause is still there stays, with what is behind it")
