"""A command's arguments may have been written by hand: what makes no sense is told in one line, without its values."""

from __future__ import annotations

import pytest

from dovetail_relay.desk.arguments import problem

ID = "0d7a1c52-6f5e-4f0e-9d4f-6a2f0f7c9a11"


@pytest.mark.parametrize(
    "arguments",
    [
        {"upto": 0}, {"upto": 9, "rate": 0.5}, {"upto": 9, "id": ID, "key": "k", "type": "T", "class": "schema"},
        {"upto": 9, "id": None, "since": "2026-01-31 12:00:00+00:00", "until": None},
    ],
)  # fmt: skip
def test_what_the_command_line_writes_makes_sense(arguments: object) -> None:
    assert problem("release", arguments) is None


@pytest.mark.parametrize(
    "arguments",
    [
        None, [], "all", 7, {"upto": None}, {"upto": "9"}, {"upto": True}, {"upto": -1}, {"upto": 1 << 63},
        {"upto": 9.5}, {"upto": 9, "rate": 0}, {"upto": 9, "rate": -1}, {"upto": 9, "rate": "secret"},
        {"upto": 9, "rate": float("inf")},
        {"upto": 9, "rate": True}, {"upto": 9, "id": "secret"}, {"upto": 9, "id": 7}, {"upto": 9, "since": "secret"},
        {"upto": 9, "key": {"secret": 1}}, {"upto": 9, "key": "secret\0"}, {"upto": 9, "topic": 7},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_in_one_line(arguments: object) -> None:
    said = problem("discard", arguments)
    assert said is not None
    assert "\n" not in said
    assert "secret" not in said


def test_a_release_says_up_to_which_row_and_a_discard_names_its_events() -> None:
    assert problem("release", {}) is not None
    assert problem("discard", {}) is None


def test_a_replay_needs_no_row_to_count_up_to() -> None:
    assert problem("replay", {"topic": "t", "rate": 10}) is None
