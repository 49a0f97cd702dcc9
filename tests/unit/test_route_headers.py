"""The headers of a record, plainly built, against the contract and the standard library."""

import contextlib
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import Lsn
from dovetail_relay.route import headers
from dovetail_schemas.headers import RESERVED, RESERVED_PREFIXES, format_time, is_reserved, parse_time
from dovetail_schemas.position import Position

PG_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
PG_EPOCH_US = 946_684_800_000_000
FIRST_US = (datetime.min.replace(tzinfo=UTC) - PG_EPOCH) // timedelta(microseconds=1)
LAST_US = (datetime.max.replace(tzinfo=UTC) - PG_EPOCH) // timedelta(microseconds=1)


def jsonb(text: str) -> bytes:
    return b"\x01" + text.encode("utf-8", "surrogatepass")


def refused(text: str) -> StuckMessage:
    with pytest.raises(StuckMessage) as caught:
        headers.own_headers(jsonb(text), "id-1")
    assert (caught.value.reason, caught.value.event_id) == ("headers", "id-1")
    return caught.value


@given(st.binary(min_size=16, max_size=16))
def test_an_id_reads_as_the_standard_library_writes_it(raw: bytes) -> None:
    assert headers.uuid_text(raw) == str(uuid.UUID(bytes=raw)).encode()


@given(st.integers(FIRST_US, LAST_US))
def test_a_time_reads_as_the_contract_writes_it_and_parses_back(created_at: int) -> None:
    text = headers.time_text(created_at)
    assert text == format_time(created_at + PG_EPOCH_US).encode()
    assert parse_time(text.decode()) == created_at + PG_EPOCH_US


@pytest.mark.parametrize("created_at", [FIRST_US - 1, LAST_US + 1, 2**63 - 1, -(2**63)])
def test_a_time_that_rfc_3339_cannot_write_is_an_overflow(created_at: int) -> None:
    with pytest.raises(OverflowError):
        headers.time_text(created_at)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_a_position_reads_as_the_contract_writes_it(epoch: int, lsn: int, index: int) -> None:
    assert headers.position_prefix(epoch, Lsn(lsn)) + b"%d" % index == str(Position(epoch, lsn, index)).encode()


def test_the_four_come_first_and_the_rows_own_follow_in_their_order() -> None:
    own = jsonb('{"traceparent": "00-ab-cd-01", "tenant": "süd"}')
    built = headers.build(b"id-1", b"OrderPlaced", b"now", b"1/00/0", own)
    assert built == [
        ("id", b"id-1"),
        ("type", b"OrderPlaced"),
        ("time", b"now"),
        ("position", b"1/00/0"),
        ("traceparent", b"00-ab-cd-01"),
        ("tenant", "süd".encode()),
    ]


@pytest.mark.parametrize("name", [*sorted(RESERVED), "ID", "ce_id", "dovetail_x", "Dovetail_x", ""])
def test_a_name_that_is_the_relays_is_refused(name: str) -> None:
    assert "reserved name" in str(refused(json.dumps({name: "x"})))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        '{"a": 1}',
        '{"a": null}',
        '{"a": {"b": "c"}}',
        '{"a": "b"} {}',
        '{"a\\u0000b": "c"}',
        '{"a": "\\ud800"}',
        '{"\\ud800": "a"}',
        '{"a":' + "[" * 100_000,
    ],
)
def test_what_is_not_an_object_of_strings_is_refused(text: str) -> None:
    refused(text)


def test_another_version_of_jsonb_is_refused() -> None:
    for raw in (b"", b"\x02{}", b"{}"):
        with pytest.raises(StuckMessage):
            headers.own_headers(raw, "id-1")


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(StuckMessage):
        headers.own_headers(b'\x01{"a": "\xff"}', "id-1")


def test_a_refusal_repeats_neither_name_nor_value() -> None:
    said = refused('{"dovetail_hunter2": "s3cret"}').line()
    assert "hunter2" not in said
    assert "s3cret" not in said


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=5))
def test_an_object_of_strings_comes_out_whole_or_is_refused_for_a_reason_that_holds(found: dict[str, str]) -> None:
    raw = jsonb(json.dumps(found, ensure_ascii=False))
    try:
        out = headers.own_headers(raw, "id-1")
    except StuckMessage:
        assert any(not name or "\0" in name or is_reserved(name) or not _is_text(name + found[name]) for name in found)
    else:
        assert {name: value.decode() for name, value in out} == found
        assert not any(name.startswith(RESERVED_PREFIXES) for name, _ in out)


@given(st.binary(max_size=60))
def test_any_bytes_are_headers_or_stuck_and_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(StuckMessage):
        assert isinstance(headers.own_headers(b"\x01" + raw, "id-1"), list)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
