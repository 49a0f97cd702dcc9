"""`dovetail local`: data on standard output, words on standard error, one line per error."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dovetail_local.demo.command import demo
from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE, Endpoints
from dovetail_local.errors import LocalError, NothingToDo
from dovetail_local.new import new
from dovetail_local.recipe import made_with
from dovetail_local.stack import ServerState, Stack

# The main command line mounts these beside `local`.
__all__ = ["app", "demo", "main", "new"]

_INTERRUPTED = 130

app = typer.Typer(
    help="Run a real PostgreSQL and a real Kafka on this machine, from Python packages alone.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Output(StrEnum):
    """How to print data."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Directory = Annotated[
    Path, typer.Option("--dir", envvar="DOVETAIL_LOCAL_DIR", help="Where the servers keep their data.")
]
_DEFAULT_DIRECTORY = Path(".dovetail/local")


@app.command()
def up(
    directory: Directory = _DEFAULT_DIRECTORY,
    brokers: Annotated[int | None, typer.Option(help="How many Kafka brokers: 1 or 3.", show_default="1")] = None,
    postgres_version: Annotated[
        str | None, typer.Option(help="15, 16, 17, 18, or a full version.", show_default="18")
    ] = None,
    kafka_version: Annotated[str | None, typer.Option(help="4.1.1, 3.9.1, ...", show_default="4.1.1")] = None,
    *,
    foreground: Annotated[bool, typer.Option(help="Stay, and stop the servers on Ctrl-C.")] = False,
) -> None:
    """Start the servers and print where they are. On a running stack, only print."""
    with _errors_in_one_line():
        # A stack keeps what it was made with; only a new one takes the defaults.
        made = made_with(directory) or (1, "18", "4.1.1")
        stack = Stack(
            directory,
            made[0] if brokers is None else brokers,
            postgres_version or made[1],
            kafka_version or made[2],
            parts=_parts(),
            say=_say,
        )
        endpoints = stack.up(attached=foreground)
        _print_environment(endpoints)
        if foreground:
            _stay(stack)
        else:
            _say("running; stop with `dovetail local down`")


@app.command()
def env(directory: Directory = _DEFAULT_DIRECTORY) -> None:
    """Print the addresses as `export` lines. For a shell: eval "$(dovetail local env)"."""
    with _errors_in_one_line():
        stack = Stack(directory)
        if not stack.status():
            raise NothingToDo(f"no stack runs in {directory}: start one with `dovetail local up`")
        _print_environment(stack.endpoints())


@app.command()
def status(
    directory: Directory = _DEFAULT_DIRECTORY,
    output: Annotated[Output, typer.Option(help="table, json or jsonl.")] = Output.TABLE,
) -> None:
    """Show each server's state. Exit code 5 where none runs, 3 where one is down."""
    with _errors_in_one_line():
        states = Stack(directory).status()
        _print_states(states, output)
        if not states:
            raise NothingToDo(f"no stack runs in {directory}: start one with `dovetail local up`")
        down = [state.name for state in states if state.state != "running"]
        if down:
            _say(f"not running: {', '.join(down)}; start again with `dovetail local up`")
            raise typer.Exit(3)


@app.command()
def down(
    directory: Directory = _DEFAULT_DIRECTORY,
    *,
    delete: Annotated[bool, typer.Option(help="Remove the data as well.")] = False,
) -> None:
    """Stop the servers. Their data stays unless --delete is given."""
    with _errors_in_one_line():
        Stack(directory, say=_say).down(delete=delete)
        _say("stopped and removed" if delete else "stopped")


def main() -> NoReturn:
    """Run the command line."""
    app(prog_name="dovetail local")
    sys.exit(0)


def _parts() -> frozenset[str]:
    """Leave out what the environment says exists already."""
    parts = {"postgres", "kafka"}
    for variable, part in ((POSTGRES_VARIABLE, "postgres"), (KAFKA_VARIABLE, "kafka")):
        if os.environ.get(variable):
            _say(f"{variable} is set: using that {part}, starting none")
            parts.discard(part)
    if not parts:
        raise NothingToDo(
            f"{POSTGRES_VARIABLE} and {KAFKA_VARIABLE} are both set: nothing to start; unset one to get a server"
        )
    return frozenset(parts)


def _stay(stack: Stack) -> None:
    """Wait for Ctrl-C or SIGTERM, then stop."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _say("running; stop with Ctrl-C")
        while True:
            signal.pause()
    except KeyboardInterrupt:
        stack.down()
        _say("stopped")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except LocalError as error:
        _say(f"dovetail local: {error}")
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        _say(f"dovetail local: {error.filename or 'system'}: {error.strerror}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("dovetail local: interrupted")
        raise typer.Exit(_INTERRUPTED) from None


def _print_environment(endpoints: Endpoints) -> None:
    for name, value in endpoints.environment().items():
        typer.echo(f"export {name}='{value}'")


def _print_states(states: list[ServerState], output: Output) -> None:
    if output is not Output.TABLE:
        fields = ("name", "state", "pid", "port", "exit_status")
        found = [{field: getattr(state, field) for field in fields} for state in states]
        each = [json.dumps(state) for state in found] if output is Output.JSONL else [json.dumps(found, indent=2)]
        for text in each:
            typer.echo(text)
        return
    row: Callable[..., str] = "{:<10} {:<8} {:>8} {:>6}".format
    if states:
        typer.echo(row("SERVER", "STATE", "PID", "PORT"))
    for state in states:
        typer.echo(row(state.name, state.state, state.pid or "-", state.port))


def _say(words: str) -> None:
    typer.echo(words, err=True)
