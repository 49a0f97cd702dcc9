"""`dovetail relay`: its commands. `run` itself is parsed elsewhere and stands here for `--help`."""

from __future__ import annotations

import typer

from dovetail_relay.cli import run as relay_run
from dovetail_relay.cli.commands import RelayCommands

app = typer.Typer(
    cls=RelayCommands,
    help="The relay process.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
run_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def _group() -> None:
    """The relay process."""


@run_app.command(
    "run",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
def run(context: typer.Context) -> int:
    """Tail the outbox and publish its events until it is told to stop."""
    return relay_run.run(context.args)
