"""A snapshot as PostgreSQL prints it, made fit to be taken in again."""

from __future__ import annotations

import pytest

from dovetail_relay.setup.slot import as_input


@pytest.mark.parametrize("text", ["10:20:", "10:20:12,15", "10:10:"])
def test_a_snapshot_that_can_be_taken_in_stays_as_it_is(text: str) -> None:
    assert as_input(text) == text


def test_an_xmin_above_xmax_comes_down_to_it() -> None:
    """Printed for a slot that was made just after transactions had rolled back; refused as input (22P02)."""
    assert as_input("3466:3465:") == "3465:3465:"
