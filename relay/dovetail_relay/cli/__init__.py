"""The command line: parse, call, print; no logic.

Data goes to stdout, words to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 a server cannot be reached, 4 a check
found something, 5 nothing to do where something was asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice

from dovetail_relay.cli.argv import command_words


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point `dovetail`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if list(islice(command_words(argv), 2)) == ["relay", "run"]:
        from dovetail_relay.cli.run import run as run_relay  # the relay's process loads nothing else of the CLI

        return run_relay(argv)
    try:
        import typer  # noqa: F401 - the SDK alone does not bring it, and must still get an answer
    except ModuleNotFoundError:
        print("dovetail: the CLI needs the extra: pip install 'dovetail[relay]'", file=sys.stderr)  # noqa: T201
        return 2
    from dovetail_relay.cli.app import run  # needs typer

    return run(argv)
