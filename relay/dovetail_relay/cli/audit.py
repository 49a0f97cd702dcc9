"""`dovetail audit`: what operators did, and whether the log of it is what was written."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

import typer

from dovetail_relay.cli.failures import CheckFound, NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.moments import FORMS, moment_of
from dovetail_relay.cli.words import say, write

app = typer.Typer(
    help="The log of what operators did.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

_COLUMNS = ("seq", "at", "actor", "action", "target", "reason")


@app.callback()
def _group() -> None:
    """The log of what operators did."""


@app.command("list")
def list_entries(
    context: typer.Context,
    *,
    since: Annotated[
        str | None, typer.Option(help=f"From this moment on: {FORMS}.", envvar="DOVETAIL_AUDIT_SINCE")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="`recover`, or one step of it: `recover.done`.", envvar="DOVETAIL_AUDIT_ACTION")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who: a login.", envvar="DOVETAIL_AUDIT_ACTOR")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.", envvar="DOVETAIL_AUDIT_LIMIT")] = 50,
) -> None:
    """Show the newest entries, newest first; exit 5 where there is none."""
    from dovetail_relay.operate import audit

    given = invocation(context)
    settings = given.settings(needs=("postgres.operator_dsn",))
    found = audit.entries(settings, since=moment_of(since, "--since"), action=action, actor=actor, most=limit)
    if not found:
        raise NothingToDo("NO_ENTRY: the audit log has no such entry")
    _show(found, given.output)


@app.command("verify")
def verify(context: typer.Context) -> None:
    """Compute every hash anew and compare the newest with the checkpoint in Kafka; exit 4 at the first bad entry."""
    from dovetail_relay.observe.topics import look, topics_of
    from dovetail_relay.operate import audit

    given = invocation(context)
    settings = given.settings(needs=("postgres.operator_dsn", "kafka.bootstrap_servers"))
    with topics_of(settings) as topics:
        checkpoint = look(topics, settings).checkpoint
    anchor = None if checkpoint is None else checkpoint.audit
    chain = audit.verify(settings, anchor)
    report = {
        "entries": chain.entries,
        "head": chain.head,
        "anchor": anchor,
        "bad": chain.bad,
        "why": chain.why,
    }
    _print(report, given.output)
    if chain.bad is not None:
        raise CheckFound(f"AUDIT_BROKEN: entry {chain.bad}: {chain.why}; next: compare with a backup")
    if anchor is None:
        say("no checkpoint in Kafka carries a head yet: a chain that its owner computed anew would not be noticed")


def _print(report: dict[str, Any], output: str) -> None:
    from dovetail_relay.observe.printable import json_block, json_line
    from dovetail_relay.observe.report import in_columns

    if output == "table":
        shown = [
            ("entries", str(report["entries"])),
            ("head", _head(report["head"])),
            ("in Kafka", _head(report["anchor"])),
            ("chain", "whole" if report["bad"] is None else f"broken at entry {report['bad']}: {report['why']}"),
        ]
        write("".join(line + "\n" for line in in_columns(shown)))
    else:
        write((json_block(report) if output == "json" else json_line(report)) + "\n")


def _head(head: tuple[int, str] | None) -> str:
    return "none" if head is None else f"{head[0]} {head[1]}"


def _show(found: list[dict[str, Any]], output: str) -> None:
    from dovetail_relay.cli.words import table
    from dovetail_relay.observe.printable import json_block, json_line, printable

    rows = [{**row, "at": row["at"].astimezone(UTC).isoformat().replace("+00:00", "Z")} for row in found]
    if output == "json":
        write(json_block(rows) + "\n")
    elif output == "jsonl":
        write("".join(json_line(row) + "\n" for row in rows))
    else:
        shown = [{name: None if row[name] is None else printable(row[name]) for name in _COLUMNS} for row in rows]
        write(table(shown, _COLUMNS))
