"""`dovetail version`."""

from __future__ import annotations

import json
from importlib import metadata

import typer

from dovetail_relay.cli.invocation import invocation
from dovetail_relay.cli.words import write

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def program_version() -> str:
    """`dovetail 0.1.0`; unknown where the package was not installed but copied."""
    try:
        return f"dovetail {metadata.version('dovetail')}"
    except metadata.PackageNotFoundError:
        return "dovetail (not installed)"


@app.command()
def version(context: typer.Context) -> None:
    """Print the version."""
    said, output = program_version(), invocation(context).output
    if output == "table":
        write(said + "\n")
    else:
        program, _, number = said.partition(" ")
        write(json.dumps({"program": program, "version": number}) + "\n")
