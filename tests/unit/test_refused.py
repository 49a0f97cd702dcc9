"""When the end of a stream is a halt: at one place, for one reason that is the server's, for a minute."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail_relay.errors import StreamEnded, StreamRefused
from dovetail_relay.nouns import Lsn
from dovetail_relay.refused import SPAN_SECONDS, Refusals


def ended(sqlstate: str | None = "54000", at: int = 0x10) -> StreamEnded:
    return StreamEnded("string buffer exceeds maximum allowed length", sqlstate=sqlstate, at=Lsn(at))


def ends(refusals: Refusals, *at: float, **given: Any) -> list[StreamRefused | None]:
    """Streams that end at these seconds."""
    return [refusals.after(ended(**given), now) for now in at]


def test_what_cannot_be_sent_for_a_minute_is_a_halt_with_the_way_out() -> None:
    found = ends(Refusals("dovetail", recoverable=True), 0.1, 0.2, 0.4, 30, SPAN_SECONDS + 1, SPAN_SECONDS + 16)
    assert found[:4] == [None] * 4
    assert {halt and halt.line() for halt in found[4:]} == {
        "STREAM_REFUSED: PostgreSQL cannot send what comes after 0/10: string buffer exceeds maximum allowed length "
        "(SQLSTATE 54000); next: dovetail slot drop --slot dovetail, then dovetail recover"
    }


def test_where_the_stream_came_on_or_ended_for_another_reason_it_is_counted_anew() -> None:
    refusals = Refusals("dovetail", recoverable=True)
    for nth in range(20):
        now = nth * 20.0
        assert refusals.after(ended(at=nth), now) is None
        assert refusals.after(ended("XX000" if nth % 2 else "22000", at=99), now) is None


def test_ends_that_lie_days_apart_have_nothing_to_do_with_each_other() -> None:
    assert ends(Refusals("dovetail", recoverable=True), *(day * 86_400 for day in range(9))) == [None] * 9


@pytest.mark.parametrize("sqlstate", [None, "08006", "53200", "57P01", "57P03", "58030", "42704", "55000"])
def test_an_end_that_is_not_for_what_was_to_be_sent_never_halts(sqlstate: str | None) -> None:
    found = ends(Refusals("dovetail", recoverable=True), *range(0, 200, 10), sqlstate=sqlstate)
    assert set(found) == {None}


def test_a_table_that_is_not_ours_cannot_be_recovered_and_no_such_way_is_named() -> None:
    *_, halt = ends(Refusals("orders", recoverable=False), 0, 30, 61)
    assert halt is not None
    assert halt.remedy == "dovetail doctor"
