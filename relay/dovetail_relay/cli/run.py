"""`dovetail relay run`, parsed with the standard library alone.

Whatever is imported on the way to the relay stays in its memory for months. Typer brings pydantic (0.3 s and 20 MB
before any work), so this one command does without it.
"""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dovetail_relay.cli import failures
from dovetail_relay.cli.argv import hoisted
from dovetail_relay.cli.invocation import Invocation
from dovetail_relay.cli.words import say

# flag, key of the configuration, help
FLAGS = (
    ("--name", "relay.name", "who this relay is"),
    ("--slot", "relay.slot", "the replication slot"),
    ("--delivery", "delivery.mode", "exactly_once or at_least_once"),
    ("--http-host", "relay.http_host", "where health, metrics and registry reads listen"),
    ("--http-port", "relay.http_port", "0 for any free port"),
    ("--log-level", "log.level", "debug, info, warning or error"),
    ("--log-format", "log.format", "json or text"),
)


class _Usage(Exception):
    """The command line cannot be understood: exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


def variable(key: str) -> str:
    """The environment variable of a key."""
    return "DOVETAIL_" + key.replace(".", "__").upper()


def parser() -> argparse.ArgumentParser:
    """All options of `dovetail relay run`."""
    made = _Parser(
        prog="dovetail relay run",
        description="Tail the outbox and publish its events until it is told to stop.",
        allow_abbrev=False,
    )
    made.add_argument("--config", type=Path, metavar="PATH", help="the configuration file [env: DOVETAIL_CONFIG]")
    made.add_argument("--debug", action="store_true", help="tracebacks [env: DOVETAIL_DEBUG]")
    # Accepted like everywhere; the relay prints no data.
    made.add_argument("--output", help=argparse.SUPPRESS)
    for flag, key, said in FLAGS:
        made.add_argument(flag, dest=key, metavar="X", help=f"{said} [env: {variable(key)}]")
    return made


def run(argv: Sequence[str]) -> int:
    """Parse, load the configuration, run the relay; never raises. The exit code is returned."""
    debug = "--debug" in argv or bool(os.environ.get("DOVETAIL_DEBUG"))
    try:
        options, unknown = parser().parse_known_args(_without_command(argv))
        if unknown:
            raise _Usage(f"no such option: {unknown[0]}{_nearest(unknown[0])}")
        given = {key: getattr(options, key) for _, key, _ in FLAGS}
        settings = Invocation(config=options.config, debug=debug).settings(given)
        from dovetail_relay import service  # a bad configuration is told without it

        return service.main(settings)
    except SystemExit as done:  # --help
        return done.code if isinstance(done.code, int) else failures.FAILED
    except _Usage as error:
        say(f"dovetail: USAGE: {error}; next: dovetail relay run --help")
        return failures.USAGE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        if debug:
            traceback.print_exception(error)
        lines, code = failures.told(error)
        for line in lines:
            say(f"dovetail: {line}")
        return code


def _without_command(argv: Sequence[str]) -> list[str]:
    words = hoisted(argv)
    for word in ("relay", "run"):
        if word in words:
            words.remove(word)
    return words


def _nearest(word: str) -> str:
    from difflib import get_close_matches  # only for those who mistyped

    known = [*(flag for flag, _, _ in FLAGS), "--config", "--debug", "--help"]
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
