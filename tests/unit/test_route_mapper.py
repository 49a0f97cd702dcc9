"""The hot path, held to the plain way of saying the same."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.encode.framing import Encoder, UnknownFingerprint
from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import Lsn, Record
from dovetail_relay.route import headers
from dovetail_relay.route.mapper import Mapper, Row
from dovetail_relay.route.router import Route, Router

FINGERPRINT = bytes(range(16))
EVENT_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
PREFIX = headers.position_prefix(3, Lsn(0x16B37428))


def mapper(**routes: Route) -> Mapper:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, 77, '"string"')
    return Mapper(Router(routes), encoder)


def row(**changes: Any) -> Row:
    columns: dict[str, Any] = {
        "id": EVENT_ID.bytes,
        "aggregatetype": "order",
        "aggregateid": b"42",
        "type": b"OrderPlaced",
        "payload": b"body",
        "schema_fingerprint": FINGERPRINT,
        "encoding": b"avro",
        "headers": b"\x01{}",
        "created_at": 820_454_400_123_456,
    }
    return tuple((columns | changes).values())


def test_a_row_becomes_topic_framed_value_key_and_four_headers() -> None:
    assert mapper().record(row(), PREFIX, 5) == Record(
        "outbox.event.order",
        b"\0\0\0\0\x4dbody",
        b"42",
        [
            ("id", b"01890a5d-ac96-774b-bcce-b302099a8057"),
            ("type", b"OrderPlaced"),
            ("time", b"2025-12-31T00:00:00.123456Z"),
            ("position", b"3/0000000016B37428/5"),
        ],
    )


rows = st.builds(
    row,
    id=st.binary(min_size=16, max_size=16),
    aggregateid=st.binary(max_size=20),
    type=st.text(min_size=1, max_size=10).map(lambda text: text.encode("utf-8", "replace")),
    payload=st.binary(max_size=30),
    created_at=st.integers(-(10**15), 10**15) | st.integers(0, 3_000_000),
    headers=st.dictionaries(st.sampled_from(["traceparent", "tenant", "b"]), st.text("abcé", max_size=5)).map(
        lambda found: b"\x01" + json.dumps(found).encode()
    ),
)


@given(st.lists(st.tuples(rows, st.integers(0, 5000)), max_size=8))
def test_the_fast_path_says_what_the_plain_one_says_in_any_order_of_rows(given_rows: list[tuple[Row, int]]) -> None:
    fast = mapper()
    for one, index in given_rows:
        record = fast.record(one, PREFIX, index)
        id_text, time = headers.uuid_text(one[0]), headers.time_text(one[8])
        assert isinstance(one[3], bytes)
        assert record.headers == headers.build(id_text, one[3], time, PREFIX + b"%d" % index, one[7])
        assert record.value == b"\0\0\0\0\x4d" + (one[4] or b"")
        assert record.key == one[2]


def test_names_may_come_as_text_or_as_bytes() -> None:
    as_bytes = mapper().record(row(aggregatetype=b"order"), PREFIX, 0)
    as_text = mapper().record(row(type="OrderPlaced"), PREFIX, 0)
    assert as_bytes == as_text


def test_each_record_has_a_list_of_headers_of_its_own() -> None:
    one = mapper()
    given_row = row(headers=b'\x01{"a": "b"}')
    first = one.record(given_row, PREFIX, 0)
    first.headers.clear()
    assert len(one.record(given_row, PREFIX, 0).headers) == 5


def test_a_passthrough_route_sends_the_payload_as_it_is() -> None:
    by_hand = mapper(order=Route("orders", "passthrough"))
    assert by_hand.record(row(schema_fingerprint=None, encoding=b"json", payload=b"{}"), PREFIX, 0).value == b"{}"
    assert by_hand.record(row(payload=None), PREFIX, 0).value is None


def test_a_row_in_json_is_encoded_by_the_schema_it_was_pinned_to() -> None:
    record = mapper().record(row(encoding=b"json", payload=b'"hi"'), PREFIX, 0)
    assert record.value == b"\0\0\0\0\x4d\x04hi"


def test_an_absent_payload_stays_absent() -> None:
    assert mapper().record(row(payload=None), PREFIX, 0).value is None


def test_after_an_unknown_schema_was_learned_the_same_row_goes_out() -> None:
    encoder = Encoder()
    one = Mapper(Router(), encoder)
    with pytest.raises(UnknownFingerprint) as caught:
        one.record(row(), PREFIX, 0)
    assert (caught.value.fingerprint, caught.value.event_id) == (FINGERPRINT, str(EVENT_ID))
    encoder.learn(FINGERPRINT, 1)
    assert one.record(row(), PREFIX, 0).value == b"\0\0\0\0\x01body"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aggregatetype": "a b"}, "unroutable"),
        ({"aggregatetype": b"a b"}, "unroutable"),
        ({"aggregatetype": b"\xff"}, "unroutable"),
        ({"schema_fingerprint": None}, "schema"),
        ({"encoding": b"xml"}, "encoding"),
        ({"encoding": b"json", "payload": b"17"}, "encoding"),
        ({"headers": b'\x01{"id": "x"}'}, "headers"),
        ({"created_at": 2**63 - 1}, "time"),
    ],
)
def test_a_row_that_cannot_go_out_is_stuck_under_its_own_id_and_leaves_nothing_behind(
    changes: dict[str, Any], reason: str
) -> None:
    one = mapper()
    with pytest.raises(StuckMessage) as caught:
        one.record(row(**changes), PREFIX, 0)
    assert (caught.value.reason, caught.value.event_id) == (reason, str(EVENT_ID))
    assert one.record(row(), PREFIX, 1) == mapper().record(row(), PREFIX, 1)


def test_types_that_never_repeat_do_not_fill_the_memory() -> None:
    one = mapper()
    for number in range(10_000):
        one.record(row(type=b"T%d" % number, aggregatetype=f"a{number}"), PREFIX, 0)
    assert len(one._types) <= 4096
    assert len(one._targets) <= 4096
