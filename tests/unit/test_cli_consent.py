"""What an operator agrees to is agreed to on the command line, each time."""

from __future__ import annotations

import pytest
import typer

from dovetail_relay.cli.app import app


@pytest.mark.parametrize(
    "words",
    [("recover",), ("relay", "accept"), ("replay",), ("stuck", "release"), ("stuck", "discard")],
)
def test_no_variable_agrees_for_an_operator(words: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for word in words:
        command = command.get_command(None, word)  # type: ignore[attr-defined]
    consents = [option for option in command.params if {"--yes", "--force"} & set(option.opts)]
    assert consents
    assert [option.envvar for option in consents] == [None] * len(consents)
