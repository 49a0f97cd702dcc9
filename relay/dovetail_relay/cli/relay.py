"""`dovetail relay run`; its sister commands are mounted beside it.

Whatever this module imports, the relay process carries: no rich, nothing of the other commands.
"""

from __future__ import annotations

from typing import Annotated

import typer

from dovetail_relay.cli.commands import RelayCommands
from dovetail_relay.cli.invocation import invocation

app = typer.Typer(
    cls=RelayCommands,
    help="The relay process.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
run_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def _group() -> None:
    """The relay process."""


@run_app.command("run")
def run(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Option(help="relay.name [env: DOVETAIL_RELAY__NAME]")] = None,
    slot: Annotated[str | None, typer.Option(help="relay.slot [env: DOVETAIL_RELAY__SLOT]")] = None,
    delivery: Annotated[
        str | None, typer.Option(help="exactly_once or at_least_once [env: DOVETAIL_DELIVERY__MODE]")
    ] = None,
    http_host: Annotated[str | None, typer.Option(help="relay.http_host [env: DOVETAIL_RELAY__HTTP_HOST]")] = None,
    http_port: Annotated[
        str | None, typer.Option(help="relay.http_port, 0 for any free one [env: DOVETAIL_RELAY__HTTP_PORT]")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="log.level [env: DOVETAIL_LOG__LEVEL]")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text [env: DOVETAIL_LOG__FORMAT]")] = None,
) -> int:
    """Tail the outbox and publish its events until it is told to stop."""
    settings = invocation(context).settings(
        {
            "relay.name": name,
            "relay.slot": slot,
            "delivery.mode": delivery,
            "relay.http_host": http_host,
            "relay.http_port": http_port,
            "log.level": log_level,
            "log.format": log_format,
        },
    )
    from dovetail_relay import service

    return service.main(settings)
