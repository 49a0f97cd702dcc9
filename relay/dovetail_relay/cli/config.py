"""`dovetail config show`."""

from __future__ import annotations

import typer

from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import show
from dovetail_relay.config import effective

app = typer.Typer(
    help="The configuration.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


@app.callback()
def _group() -> None:
    """The configuration."""


@app.command("show")
def show_config(context: typer.Context) -> None:
    """Every key with its effective value and where it came from; secrets are hidden."""
    given = invocation(context)
    show(effective(given.settings(needs=())), given.output, ("key", "value", "from"))
