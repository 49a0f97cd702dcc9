"""What an operator agrees to is agreed to on the command line, each time."""

from __future__ import annotations

import pytest
import typer

from dovetail_relay.cli.app import app
from dovetail_relay.cli.failures import NothingToDo, told
from dovetail_relay.cli.operator import confirmed, reason_of


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


def test_a_no_changes_nothing_and_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda *_asked, **_how: False)
    with pytest.raises(NothingToDo) as said:
        confirmed("Discard 3 messages?", yes=False)
    assert told(said.value) == (["DECLINED: nothing was changed"], 5)


def test_a_reason_that_is_required_is_asked_for_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda *_asked, **_how: "  the schema is\tthere ")
    assert reason_of(None, required=True) == "the schema is there"
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(typer.BadParameter):
        reason_of(None, required=True)
