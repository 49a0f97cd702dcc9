"""Builds the command line, runs it, and turns whatever comes out into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dovetail_relay.cli import failures
from dovetail_relay.cli.argv import command_words, hoisted
from dovetail_relay.cli.commands import TOP, TopCommands
from dovetail_relay.cli.invocation import Invocation
from dovetail_relay.cli.version import program_version
from dovetail_relay.cli.words import Output, say, write

# The bases of Typer's own exceptions, wherever this release keeps them (click, or a copy of it inside).
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

_OUTPUTS = ("table", "json", "jsonl")

app = typer.Typer(
    cls=TopCommands,
    name="dovetail",
    help="A transactional outbox from PostgreSQL to Kafka: exactly once from COMMIT to topic.",
    epilog="--config, --output and --debug may also stand behind the command.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(asked: bool) -> None:
    if asked:
        write(program_version() + "\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration file; ./dovetail.toml if there is one.", envvar="DOVETAIL_CONFIG"),
    ] = None,
    output: Annotated[
        str, typer.Option(help="How data is printed: table, json or jsonl.", envvar="DOVETAIL_OUTPUT")
    ] = "table",
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.", envvar="DOVETAIL_DEBUG")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Global options."""
    del version
    if output not in _OUTPUTS:
        raise typer.BadParameter(f"{output!r} is not one of {', '.join(_OUTPUTS)}", param_hint="--output")
    context.obj = Invocation(config=config, output=cast("Output", output), debug=debug)


def run(argv: Sequence[str]) -> int:
    """Run one command line; never raises. The exit code is returned."""
    if not argv:
        say(_help_text())
        return failures.USAGE
    debug = "--debug" in argv
    try:
        result = app(hoisted(argv, also_valued=_ours(argv)), prog_name="dovetail", standalone_mode=False)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else failures.FAILED
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        return _tell(["interrupted"], failures.INTERRUPTED)
    except _ClickException as error:
        return _usage(error, argv)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.FAILED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        if debug:
            traceback.print_exception(error)
        return _tell(*failures.told(error))
    if result == failures.INTERRUPTED:
        return _tell(["interrupted"], failures.INTERRUPTED)
    return result if isinstance(result, int) else failures.DONE


def _path(argv: Sequence[str]) -> str:
    """The command whose options could not be told apart: the parser does not say which it was."""
    command: Any = typer.main.get_command(app)
    path = "dovetail"
    for word in command_words(argv):
        command = command.get_command(None, word) if hasattr(command, "get_command") else None
        if command is None:
            break
        path = f"{path} {word}"
    return path


def _usage(error: Any, argv: Sequence[str]) -> int:
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    path = _path(argv) if context is None else context.command_path
    if not isinstance(error, _UsageError):
        return _tell([message], failures.FAILED)
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        # A group without its command: what it says is its whole help, in lines.
        say(context.get_help() if context is not None else _help_text())
        return failures.USAGE
    return _tell([f"USAGE: {' '.join(message.split())}; next: {path} --help"], failures.USAGE)


def _tell(lines: list[str], code: int) -> int:
    for line in lines:
        say(f"dovetail: {line}")
    return code


def _help_text() -> str:
    command = typer.main.get_command(app)
    with command.make_context("dovetail", [], resilient_parsing=True) as context:
        return command.get_help(context)


def _ours(argv: Sequence[str]) -> bool:
    """Commands from other packages parse their own `--config` and `--output`; only `--debug` is taken from them."""
    place = TOP.get(next(iter(command_words(argv)), ""))
    return place is None or place.module.startswith("dovetail_relay.")
