"""`dovetail status`: how the relay is, or where one event is."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from dovetail_relay.cli.failures import CheckFound, NothingToDo, told
from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import Output, say, write

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command("status")
def status(
    context: typer.Context,
    *,
    event_id: Annotated[
        str | None, typer.Argument(metavar="[EVENT_ID]", help="Where is this event? Without it: how is the relay?")
    ] = None,
    max_lag_seconds: Annotated[
        float, typer.Option(min=0, help="More than this behind is a finding.", envvar="DOVETAIL_MAX_LAG_SECONDS")
    ] = 60.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to look for the event in Kafka.", envvar="DOVETAIL_STATUS_TIMEOUT")
    ] = 30.0,
    http_host: Annotated[str | None, typer.Option(help="relay.http_host [env: DOVETAIL_RELAY__HTTP_HOST]")] = None,
    http_port: Annotated[str | None, typer.Option(help="relay.http_port [env: DOVETAIL_RELAY__HTTP_PORT]")] = None,
) -> None:
    """Show who leads, the slot, the checkpoint and the lag; or where one event is. Exit 4 when something is wrong."""
    given = invocation(context)
    wanted = None if event_id is None else _uuid(event_id)
    settings = given.settings(
        {"relay.http_host": http_host, "relay.http_port": http_port},
        needs=("postgres.operator_dsn|postgres.dsn", "kafka.bootstrap_servers"),
    )
    if wanted is None:
        _relay(settings, given.output, max_lag_seconds)
    else:
        _event(settings, given.output, wanted, timeout)


def _relay(settings: Any, output: Output, max_lag_seconds: float) -> None:
    from dovetail_relay.observe import look, report, verdict

    sides = look.Sides()
    seen = look.at_relay(settings, sides)
    lag = verdict.lag_of(seen)
    findings = verdict.findings_of(seen, lag, max_lag_seconds)
    _print(report.as_json(seen, lag, findings), report.as_lines(seen, lag, verdict.halt_in(seen, findings)), output)
    _end(sides, [finding.line() for finding in findings])


def _event(settings: Any, output: Output, event_id: UUID, timeout: float) -> None:
    from dovetail_relay.observe import look, report, trace
    from dovetail_relay.observe.held import settled_line

    sides = look.Sides()
    try:
        way = look.at_event(settings, sides, event_id, timeout_seconds=timeout)
    except LookupError as error:
        raise NothingToDo(f"NO_OUTBOX: {error}; next: dovetail init") from error
    if way.state == "unknown" and not sides.errors:
        raise _unknown(event_id, way.search)
    whole = trace.report(way)
    _print(whole, report.trace_lines(whole, way.held), output)
    if way.held is not None and way.state == way.held.station and (said := settled_line(str(event_id), way.held)):
        say(f"next: {said}")
    finding = trace.finding_of(way, settings.kafka.properties)
    _end(sides, [] if finding is None else [finding.line()])


def _unknown(event_id: UUID, search: Any) -> Exception:
    """Nothing is known of it: said with what was looked through, for that may not be all."""
    where = f"none of {search.records} records of {', '.join(search.topics) or 'no topic'} has it"
    if not search.complete:
        return CheckFound(
            f"NOT_FOUND_YET: the outbox has no row of {event_id}, and up to now {where}: the time was up; "
            "next: the same with --timeout 300"
        )
    gone = "; the topics no longer have their first records" if search.trimmed else ""
    return NothingToDo(
        f"UNKNOWN_EVENT: no row of the outbox and no inbox row has the id {event_id}, and {where}{gone}; "
        "next: look for its business data, the transaction may have been rolled back"
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        from dovetail_relay.observe.printable import printable, shortened

        raise typer.BadParameter(f"{shortened(printable(text), 80)!r} is not a UUID", param_hint="EVENT_ID") from None


def _print(whole: dict[str, Any], lines: list[str], output: Output) -> None:
    from dovetail_relay.observe.printable import json_block, json_line

    if output == "table":
        write("".join(line + "\n" for line in lines))
    else:
        write((json_block(whole) if output == "json" else json_line(whole)) + "\n")


def _end(sides: Any, findings: list[str]) -> None:
    """Say what is wrong and end with the code for it; a server that is not there comes before a finding."""
    from dovetail_relay.observe.printable import printable

    worst = sides.worst()
    for line in findings:
        say(f"dovetail: {printable(line)}")
    for error in sides.errors.values():
        if error is not worst:
            for line in told(error)[0]:
                say(f"dovetail: {line}")
    if worst is not None:
        raise worst
    if findings:
        raise CheckFound
