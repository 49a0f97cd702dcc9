"""`dovetail doctor`."""

from __future__ import annotations

from collections import Counter

import typer

from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import say, show, table, write
from dovetail_relay.observe.running import running
from dovetail_relay.setup.checks import examine, exit_code

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command("doctor")
def doctor(context: typer.Context) -> int:
    """Look at every precondition: what is, what should be, what to type. Changes nothing."""
    given = invocation(context)
    settings = given.settings()
    findings = [*examine(settings), *running(settings)]
    if given.output == "table":
        write(table([{**finding.row(), "is": finding.line()} for finding in findings], ("status", "check", "is")))
    else:
        show([finding.row() for finding in findings], given.output, ())
    counts = Counter(finding.status for finding in findings)
    say(f"{len(findings)} checks: {counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed")
    return exit_code(findings)
