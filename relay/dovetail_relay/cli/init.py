"""`dovetail init`."""

from __future__ import annotations

from typing import Annotated

import typer

from dovetail_relay.cli.failures import CheckFound
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import say, show, write
from dovetail_relay.setup.grants import Logins
from dovetail_relay.setup.install import Plan, install
from dovetail_relay.setup.migrate import Phase
from dovetail_relay.setup.script import kafka_script, sql_script
from dovetail_relay.setup.slot import Blocker

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_RELAY_NEEDS = ("postgres.dsn", "kafka.bootstrap_servers")


@app.command("init")
def init(
    context: typer.Context,
    *,
    owner_dsn: Annotated[
        str | None, typer.Option(help="Who owns the tables [env: DOVETAIL_POSTGRES__OWNER_DSN]")
    ] = None,
    app_role: Annotated[str | None, typer.Option(help="The service's login role.", envvar="DOVETAIL_APP_ROLE")] = None,
    relay_role: Annotated[
        str | None, typer.Option(help="The relay's login role.", envvar="DOVETAIL_RELAY_ROLE")
    ] = None,
    operator_role: Annotated[
        str | None, typer.Option(help="The operators' login role.", envvar="DOVETAIL_OPERATOR_ROLE")
    ] = None,
    before_deploy: Annotated[
        bool,
        typer.Option("--before-deploy", help="Leave the migrations that belong behind the new code's deployment.",
                     envvar="DOVETAIL_BEFORE_DEPLOY"),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look; exit 4 when something is missing.")] = False,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print what a database administrator runs.")] = False,
    print_kafka: Annotated[bool, typer.Option("--print-kafka", help="Print what a Kafka administrator runs.")] = False,
) -> None:  # fmt: skip
    """Make tables, roles, publication, topics and the slot; what is there already stays."""
    given = invocation(context)
    logins = Logins(app=app_role, relay=relay_role, operator=operator_role)
    settings = given.settings({"postgres.owner_dsn": owner_dsn}, needs=() if print_sql or print_kafka else _RELAY_NEEDS)
    if print_sql or print_kafka:
        write((sql_script(settings, logins) if print_sql else "") + (kafka_script(settings) if print_kafka else ""))
        return
    phase: Phase = "pre" if before_deploy else "all"
    plan = Plan(logins=logins, change=not check, phase=phase)
    steps = install(settings, plan, lambda step: say(step.line()), _tell_waiting)
    if given.output != "table":
        rows = [{"step": step.what, "state": step.state, "detail": step.detail} for step in steps]
        show(rows, given.output, ("step", "state", "detail"))
    if check and any(step.state == "missing" for step in steps):
        raise CheckFound("something is missing; next: dovetail init")


def _tell_waiting(blockers: list[Blocker]) -> None:
    who = "; ".join(blocker.line() for blocker in blockers) or "the server does not say for whom"
    say(f"the slot waits for open transactions: {who}")
