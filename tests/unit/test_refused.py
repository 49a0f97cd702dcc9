"""When the end of a stream is a halt: at one place, for one reason that is the server's, for the third time."""

from __future__ import annotations

import pytest

from dovetail_relay.errors import StreamEnded
from dovetail_relay.nouns import Lsn
from dovetail_relay.refused import TIMES, Refusals


def ended(sqlstate: str | None = "54000", at: int = 0x10) -> StreamEnded:
    return StreamEnded("string buffer exceeds maximum allowed length", sqlstate=sqlstate, at=Lsn(at))


def test_what_cannot_be_sent_again_and_again_is_a_halt_with_the_way_out() -> None:
    refusals = Refusals("dovetail", recoverable=True)
    assert [refusals.after(ended()) for _ in range(TIMES - 1)] == [None] * (TIMES - 1)
    halts = [refusals.after(ended()) for _ in range(3)]
    assert {halt and halt.line() for halt in halts} == {
        "STREAM_REFUSED: PostgreSQL cannot send what comes after 0/10: string buffer exceeds maximum allowed length "
        "(SQLSTATE 54000); next: dovetail slot drop --slot dovetail, then dovetail recover"
    }


def test_where_the_stream_came_on_or_ended_for_another_reason_it_is_counted_anew() -> None:
    refusals = Refusals("dovetail", recoverable=True)
    for nth in range(20):
        assert refusals.after(ended(at=nth // (TIMES - 1))) is None
        assert refusals.after(ended("XX000" if nth % 2 else "53200", at=99)) is None


@pytest.mark.parametrize("sqlstate", [None, "08006", "57P01", "57P03", "42704", "55000"])
def test_an_end_that_is_not_for_what_was_to_be_sent_never_halts(sqlstate: str | None) -> None:
    refusals = Refusals("dovetail", recoverable=True)
    assert [refusals.after(ended(sqlstate)) for _ in range(9)] == [None] * 9


def test_a_table_that_is_not_ours_cannot_be_recovered_and_no_such_way_is_named() -> None:
    refusals = Refusals("dovetail", recoverable=False)
    (halt,) = [found for found in (refusals.after(ended()) for _ in range(TIMES)) if found]
    assert halt.remedy == "dovetail doctor"
