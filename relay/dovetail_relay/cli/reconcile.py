"""`dovetail reconcile`: the outbox against the topics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from dovetail_relay.cli.failures import CheckFound, NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.moments import FORMS, span_of
from dovetail_relay.cli.words import say, table, write

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_EVERY_SECONDS = 2.0


@app.command("reconcile")
def reconcile(
    context: typer.Context,
    *,
    since: Annotated[
        str | None,
        typer.Option(help=f"From when on: {FORMS}. The oldest day kept.",
                     envvar="DOVETAIL_RECONCILE_SINCE"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Up to when, in the same forms. Now.", envvar="DOVETAIL_RECONCILE_UNTIL")
    ] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Only this one; may be repeated.", metavar="TOPIC")
    ] = None,
) -> None:  # fmt: skip
    """Compare the outbox with the topics, and name what is missing, too much or doubled. Exit 4 when something is."""
    from dovetail_relay.reconcile import report as printed
    from dovetail_relay.reconcile.run import NoSuchTopic, NotStarted
    from dovetail_relay.reconcile.run import reconcile as compare
    from dovetail_relay.reconcile.window import NoWindow

    given = invocation(context)
    spans = {"--since": span_of(since, "--since"), "--until": span_of(until, "--until")}
    settings = given.settings()
    if settings.outbox.foreign:
        raise NothingToDo("NOT_OURS: a table of your own has no transaction ids to compare by; next: dovetail status")
    try:
        found = compare(
            settings, since=spans["--since"], until=spans["--until"], topics=topics or [], say=_now_and_then()
        )
    except NotStarted:
        raise NothingToDo("NOT_STARTED: the relay has published nothing yet; next: dovetail relay run") from None
    except NoSuchTopic as error:
        raise typer.BadParameter(f"no such topic: {_safe(error)}", param_hint="--topic") from None
    except NoWindow as error:
        raise typer.BadParameter(str(error), param_hint="--since, --until") from None
    if given.output == "table":
        write(table(printed.topics(found), printed.TOPIC_COLUMNS))
        if shown := printed.shown_events(found):
            write("\n" + table(shown, printed.EVENT_COLUMNS))
    else:
        from dovetail_relay.observe.printable import json_block, json_line

        write((json_block if given.output == "json" else json_line)(printed.as_json(found)) + "\n")
    for line in printed.remarks(found):
        say(f"dovetail: {line}")
    if not found.balanced:
        raise CheckFound(printed.verdict(found))
    say(f"dovetail: {printed.verdict(found)}")


def _safe(text: object) -> str:
    from dovetail_relay.observe.printable import printable, shortened

    return shortened(printable(text), 80)


def _now_and_then() -> Callable[[str], None]:
    """Progress, but not every line of it."""
    due = time.monotonic() + _EVERY_SECONDS

    def progress(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _EVERY_SECONDS
            say(text)

    return progress
