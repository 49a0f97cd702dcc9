"""`dovetail tail`: the decoded events as they come."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import say, write

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command("tail")
def tail(
    context: typer.Context,
    *,
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Without any: the topics of the routes.")
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Also what is there already.", envvar="DOVETAIL_TAIL_FROM_START")
    ] = False,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="End after so many events.", envvar="DOVETAIL_TAIL_MAX")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="End after so many seconds; exit 5 when --max was not reached by then.",
                     envvar="DOVETAIL_TAIL_TIMEOUT"),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="registry.url; else the database's schemas [env: DOVETAIL_REGISTRY__URL]")
    ] = None,
) -> None:  # fmt: skip
    """Show decoded events until Ctrl-C. Reads what is committed, joins no group, commits nothing."""
    given = invocation(context)
    settings = given.settings({"registry.url": registry}, needs=("kafka.bootstrap_servers",))
    shown = 0
    try:
        for line in _lines(settings, topics or [], from_start, timeout, as_json=given.output != "table"):
            write(line + "\n")
            shown += 1
            if shown == most:
                return
    except KeyboardInterrupt:
        # That is how one ends it.
        return
    if most is not None:
        raise NothingToDo(f"{shown} of {most} events came within {timeout:g} s")


def _lines(settings: Any, asked: list[str], from_start: bool, seconds: float | None, *, as_json: bool) -> Any:
    from dovetail_relay.observe import schemas, stream
    from dovetail_relay.observe.printable import json_line, printable
    from dovetail_relay.observe.topics import topics_of

    url = settings.registry.url
    fetch = schemas.from_registry(url) if url else schemas.from_database(settings)

    def trouble(text: str) -> None:
        say(f"dovetail: Kafka does not answer: {printable(text)}")

    with topics_of(settings, on_trouble=trouble) as kafka:
        try:
            following = stream.chosen(asked, settings, kafka.partitions())
        except stream.NoTopic as error:
            raise _no_topic(error, asked) from error
        names = ", ".join(following)
        events = stream.events_of(
            kafka,
            following,
            settings,
            schemas.Schemas(fetch),
            from_start=from_start,
            seconds=seconds,
            on_following=lambda: say(f"following {names}{_now_on(from_start)}; Ctrl-C ends"),
        )
        for event in events:
            yield json_line(event.as_json()) if as_json else event.line()


def _now_on(from_start: bool) -> str:
    return "" if from_start else " from now on (--from-start: from the beginning)"


def _no_topic(error: Any, asked: list[str]) -> Exception:
    from dovetail_relay.observe.printable import printable

    there = f"; there are: {', '.join(error.there[:10])}" if error.there else ""
    if asked:
        return typer.BadParameter(f"no such topic: {printable(', '.join(error.missing))}{there}", param_hint="TOPIC")
    return NothingToDo("NO_TOPIC: there is no topic of events yet; next: dovetail init")
