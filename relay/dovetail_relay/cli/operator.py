"""What the operators' commands share: a reason, a yes, and the end of a command that the relay did."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from dovetail_relay.cli.failures import CheckFound, NothingToDo
from dovetail_relay.cli.progress import shown
from dovetail_relay.cli.words import Output, say, write

if TYPE_CHECKING:
    from dovetail_relay.config import Settings
    from dovetail_relay.source.commands import Command, Kind

NEEDS = ("postgres.operator_dsn", "kafka.bootstrap_servers")
_LONGEST_REASON = 1000
# What a replay leaves behind is parked nowhere: its row is kept, and it is asked for anew.
_AGAIN = "take away the cause, which the outcome names, then dovetail replay --id EVENT_ID --reason … again"


def reason_of(text: str | None, *, required: bool = False) -> str | None:
    """The reason as it goes into the audit log. One that is required is asked for where there is a terminal."""
    if text is None and required and sys.stdin.isatty():
        text = str(typer.prompt("Why? In a few words, for the audit log", err=True))
    said = " ".join((text or "").split())
    if not said and (required or text is not None):
        raise typer.BadParameter("say why, in a few words: it goes into the audit log", param_hint="--reason")
    if len(said.encode()) > _LONGEST_REASON:
        raise typer.BadParameter(f"at most {_LONGEST_REASON} bytes", param_hint="--reason")
    return said or None


def confirmed(question: str, *, yes: bool) -> None:
    """Go on only with a yes. Without a terminal it must have been given beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("without a terminal it must be given", param_hint="--yes")
    if not typer.confirm(question, err=True):
        raise NothingToDo("DECLINED: nothing was changed")


def under_way(settings: Settings, kind: Kind) -> Command:
    """The command to follow. Raises NothingToDo where none is under way, with the end of the one that was."""
    from dovetail_relay.observe.printable import printable
    from dovetail_relay.operate.commands import active, last

    command = active(settings, kind)
    if command is None:
        before = last(settings, kind)
        told = "" if before is None else f"; the last one, command {before.id}, is {before.state}: {before.outcome}"
        raise NothingToDo(printable(f"NOTHING_UNDER_WAY: no {kind} is under way{told}; next: dovetail audit list"))
    return command


def joined(
    settings: Settings, kind: Kind, output: Output, reason: str | None, *, follow: bool, withdraw: bool, dry_run: bool
) -> bool:  # fmt: skip
    """Follow or end the command of this kind that is under way, where that was asked for; whether it was."""
    if follow and withdraw:
        raise typer.BadParameter("follow it or end it, not both", param_hint="--follow, --withdraw")
    if dry_run and (follow or withdraw):
        raise typer.BadParameter("it would do something to the command that is under way", param_hint="--dry-run")
    if withdraw:
        give_up(settings, kind, output, reason)
    elif follow:
        go_on(settings, kind, output)
    return follow or withdraw


def go_on(settings: Settings, kind: Kind, output: Output) -> None:
    """Follow the command of this kind that is under way; one that is paused goes on."""
    from dovetail_relay.operate.commands import want
    from dovetail_relay.source.commands import FOR_HALTED

    command = under_way(settings, kind)
    if command.wanted == "pause":
        want(settings, command, "run")
    pausable = kind not in FOR_HALTED
    see_through(settings, command, output, pausable=pausable, total=command.arguments.get("events"))


def give_up(settings: Settings, kind: Kind, output: Output, reason: str | None) -> None:
    """Withdraw the command of this kind that is under way, and wait until the relay has let it go."""
    from dovetail_relay.operate.commands import withdraw

    command = under_way(settings, kind)
    withdraw(settings, command, reason)
    see_through(settings, command, output, total=command.arguments.get("events"), given_up=True)


def see_through(
    settings: Settings,
    command: Command,
    output: Output,
    *,
    pausable: bool = False,
    total: int | None = None,
    given_up: bool = False,
) -> None:
    """Follow a command to its end, print it, and end with the code that it deserves.

    `total` is how many events it is about, where that is known: its progress counts them as `after`. `given_up`: that
    it was withdrawn is what was asked for.
    """
    from dovetail_relay.observe.printable import printable
    from dovetail_relay.operate.commands import follow
    from dovetail_relay.operate.problems import CommandFailed

    with shown(total, lambda now: now.progress.get("after", 0)) as (speak, show):
        end = follow(settings, command.id, lambda text: speak(printable(text)), pausable=pausable, show=show)
    print_one(
        {
            "command": end.id,
            "kind": end.kind,
            "actor": end.actor,
            "state": end.state,
            "outcome": end.outcome,
            **{name: value for name, value in end.progress.items() if value is not None},
        },
        output,
    )
    if end.state == "paused":
        raise CheckFound(f"PAUSED: command {end.id} has not come to its end; next: the same command with --follow")
    if end.state == "failed" and end.progress.get("nothing"):
        raise NothingToDo(f"NOTHING_TO_DO: {end.outcome}")
    if end.state == "failed" or (end.state == "withdrawn" and not given_up):
        # The relay's own words may end with what to type: then that is next, and nothing else.
        said, *remedies = (end.outcome or "").split("; next: ")
        raise CommandFailed(f"command {end.id}: {said}", remedy=remedies[-1] if remedies else None)
    if (still := end.progress.get("still_stuck")) and end.state == "done":
        following = f"{still} stuck with what is behind them; next: dovetail stuck show {end.progress['first_stuck']}"
        if end.kind == "release":
            raise CheckFound(f"STILL_STUCK: {following}")
        say(following)
    if end.progress.get("refused"):
        raise CheckFound(f"COULD_NOT_GO_OUT: {end.progress['refused']} of the events; next: {_AGAIN}")


def print_one(whole: dict[str, Any], output: Output) -> None:
    """One object: as lines of `name  value`, or as JSON."""
    from dovetail_relay.observe.printable import json_block, json_line

    if output == "table":
        write("".join(line + "\n" for line in _lines(whole)))
    else:
        write((json_block(whole) if output == "json" else json_line(whole)) + "\n")


def say_one(whole: dict[str, Any]) -> None:
    """The same for the person who is asked."""
    for line in _lines(whole):
        say(line)


def _lines(whole: dict[str, Any]) -> list[str]:
    from dovetail_relay.observe.report import in_columns

    shown = [(name.replace("_", " "), _text(value)) for name, value in whole.items() if value not in (None, [], {})]
    return in_columns(shown)


def _text(value: object) -> str:
    if isinstance(value, list):
        more = f", … ({len(value) - 5} more)" if len(value) > 5 else ""
        return ", ".join(map(str, value[:5])) + more
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)
