"""`dovetail version`."""

from __future__ import annotations

from importlib import metadata

import typer

from dovetail_relay.cli.words import write

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def program_version() -> str:
    """`dovetail 0.1.0`; unknown where the package was not installed but copied."""
    try:
        return f"dovetail {metadata.version('dovetail')}"
    except metadata.PackageNotFoundError:
        return "dovetail (not installed)"


@app.command()
def version() -> None:
    """Print the version."""
    write(program_version() + "\n")
