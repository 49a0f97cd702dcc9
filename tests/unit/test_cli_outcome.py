"""How a command that the relay did ends at the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from dovetail_relay.cli.failures import told
from dovetail_relay.cli.operator import see_through
from dovetail_relay.config import Settings
from dovetail_relay.operate import commands
from dovetail_relay.operate.problems import CommandFailed
from dovetail_relay.source.commands import Command

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def ended(outcome: str) -> Command:
    return Command(7, "recover", {}, None, "operator", NOW, "run", "failed", {}, outcome, NOW)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (
            "the checkpoint topic c does not exist; next: dovetail init, then dovetail recover",
            "command 7: the checkpoint topic c does not exist; next: dovetail init, then dovetail recover",
        ),
        ("it cannot be done", "command 7: it cannot be done; next: dovetail audit list"),
    ],
)
def test_what_failed_has_one_next_command(outcome: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "follow", lambda *_given, **_more: ended(outcome))
    with pytest.raises(CommandFailed) as caught:
        see_through(cast("Settings", cast("Any", None)), ended(outcome), "json")
    assert told(caught.value)[0] == [f"COMMAND_FAILED: {line}"]
