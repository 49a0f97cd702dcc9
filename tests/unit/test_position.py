"""Positions and times in headers: one text form each, read back strictly."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_schemas.errors import PositionInvalid, TimeInvalid
from dovetail_schemas.headers import format_time, is_reserved, parse_time
from dovetail_schemas.position import Position

POSITIONS = st.builds(Position, st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS = st.datetimes().map(lambda m: (m.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1))


@given(POSITIONS)
def test_a_position_is_read_as_it_was_written(position):
    assert Position.parse(str(position)) == position


@given(POSITIONS, POSITIONS)
def test_positions_order_by_epoch_then_lsn_then_index(one, other):
    key = (one.epoch, one.commit_lsn, one.index) < (other.epoch, other.commit_lsn, other.index)
    assert (one < other) is key


def test_the_text_of_a_position_is_what_the_header_carries():
    assert str(Position(1, 0x1A2B3C8, 7)) == "1/0000000001A2B3C8/7"


@pytest.mark.parametrize(
    "text",
    ["", "1/0/0", "1/0000000001a2b3c8/0", "01/0000000001A2B3C8/0", "1/0000000001A2B3C8/-1", "1/0000000001A2B3C8/0 ",
     "2147483648/0000000000000000/0", "0/0000000000000000/9223372036854775808", "١/0000000000000000/0"],
)  # fmt: skip
def test_any_other_text_is_not_a_position(text):
    with pytest.raises(PositionInvalid, match="one looks like 1/0000000001A2B3C8/0"):
        Position.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_position_or_refused(text):
    try:
        assert str(Position.parse(text)) == text
    except PositionInvalid as error:
        assert "\n" not in str(error)


@given(MICROSECONDS)
def test_a_time_is_read_as_it_was_written(micros):
    text = format_time(micros)
    assert parse_time(text) == micros
    assert datetime.fromisoformat(text) == EPOCH + timedelta(microseconds=micros)


def test_a_time_has_microseconds_and_z():
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999999Z"
    assert format_time(1_700_000_000_000_007) == "2023-11-14T22:13:20.000007Z"


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-31T23:59:59Z", "2026-01-31T23:59:59.123Z", "2026-02-30T00:00:00.000000Z",
     "2026-01-31T23:59:59.123456+00:00", "2026-01-31T23:59:60.000000Z", "2026-01-31 23:59:59.123456Z"],
)  # fmt: skip
def test_any_other_text_is_not_a_time(text):
    with pytest.raises(TimeInvalid):
        parse_time(text)


@pytest.mark.parametrize("micros", [2**63, -(2**63)])
def test_a_time_outside_the_calendar_is_refused(micros):
    with pytest.raises(TimeInvalid):
        format_time(micros)


def test_our_header_names_are_reserved_and_trace_context_is_the_users():
    assert all(map(is_reserved, ["id", "Type", "TIME", "position", "replay", "ce_id", "dovetail_x"]))
    assert not any(map(is_reserved, ["traceparent", "tracestate", "baggage", "tenant"]))
