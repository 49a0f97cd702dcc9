"""What makes a Kafka message an event, and which events are refused by name."""

from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dovetail
from dovetail import errors
from dovetail.inbox import Delivery, Receiving
from dovetail_schemas.avro import Codec, frame
from dovetail_schemas.headers import format_time
from dovetail_schemas.position import Position
from support.messages import FakeMessage

DAY = 86_400
NOW = 1_800_000_000


@dovetail.event("OrderPlaced", aggregate="order", key="order_id")
@dataclass
class OrderPlaced:
    order_id: int
    note: str = "none"


KIND = dovetail.EventType.of(OrderPlaced)
OLD = Codec({"type": "record", "name": "OrderPlaced", "fields": [{"name": "order_id", "type": "int"}]})


class Shelf:
    """Schemas from a dict."""

    def __init__(self, *codecs):
        self._codecs = {codec.schema_id: codec for codec in codecs}

    def codec(self, schema_id):
        try:
            return self._codecs[schema_id]
        except KeyError:
            raise errors.SchemaUnknown("no") from None


def message(*, value=None, at=NOW, drop=(), add=(), **changes):
    headers = {
        "id": str(UUID(int=7)), "type": "OrderPlaced", "time": format_time(at * 1_000_000),
        "position": "1/0000000000000001/0", **changes,
    }  # fmt: skip
    pairs = [(name, text.encode()) for name, text in headers.items() if name not in drop]
    body = frame(KIND.codec.schema_id, KIND.codec.encode(OrderPlaced(42))) if value is None else value
    return FakeMessage(value=body, key=b"42", headers=[*pairs, *add])


def receiving(**options):
    return Receiving("shipping", clock=lambda: NOW, **options)


def claim(given, **options):
    return receiving(**options).claim(given)


def test_a_message_of_ours_has_all_its_parts():
    delivery, statement = claim(message(tenant="a"), types=[OrderPlaced])
    assert delivery.id == UUID(int=7)
    assert (delivery.type, delivery.key, delivery.headers["tenant"]) == ("OrderPlaced", "42", "a")
    assert delivery.time.timestamp() == NOW
    assert delivery.position == Position(1, 1, 0)
    assert delivery.event == OrderPlaced(42)
    assert statement.params == ("shipping", UUID(int=7), NOW // DAY % 9)


@pytest.mark.parametrize("name", ["id", "type", "time"])
def test_a_message_without_our_headers_is_refused_with_its_place(name):
    with pytest.raises(errors.BadMessage, match=rf"^orders\[3\]@17: the header '{name}' is missing"):
        claim(message(drop=[name]))


@pytest.mark.parametrize(
    "changes",
    [{"id": "x"}, {"id": "{00000000-0000-0000-0000-000000000007}"}, {"id": ""}, {"type": ""}, {"time": "yesterday"},
     {"position": "1/2/3"}, {"add": [("id", b"x")]}, {"id": "x" * 100_000}],
)  # fmt: skip
def test_headers_that_are_not_ours_are_refused(changes):
    with pytest.raises(errors.BadMessage) as caught:
        claim(message(**changes))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("headers", [None, []])
def test_row_62_a_tombstone_without_headers_is_a_bad_message(headers):
    with pytest.raises(errors.BadMessage):
        claim(FakeMessage(value=None, key=None, headers=headers))


def test_row_62_a_null_value_is_bad_framing_and_a_null_key_is_none():
    delivery, _ = claim(FakeMessage(value=None, key=None, headers=message().headers()))
    assert delivery.key is None
    with pytest.raises(errors.BadFraming):
        _ = delivery.event


@pytest.mark.parametrize("value", [b"", b"\0\0\0\1", b"\5\0\0\0\1x", b"{}"])
def test_row_63_a_value_that_is_not_framed_is_named(value):
    delivery, _ = claim(message(value=value))
    with pytest.raises(errors.BadFraming):
        _ = delivery.event


def test_row_64_an_unknown_schema_is_named():
    delivery, _ = claim(message(value=frame(5, b"")))
    with pytest.raises(errors.SchemaUnknown, match="pass schemas="):
        _ = delivery.event
    delivery, _ = claim(message(value=frame(5, b"")), schemas=Shelf(OLD))
    with pytest.raises(errors.SchemaUnknown):
        _ = delivery.event


@given(st.binary(max_size=60))
def test_row_65_any_body_is_an_event_or_one_kind_of_error(body):
    delivery, _ = claim(message(value=frame(KIND.codec.schema_id, body)), types=[OrderPlaced])
    try:
        assert isinstance(delivery.event, OrderPlaced)
    except errors.DecodeError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("age_seconds", "fine"), [(7 * DAY, True), (7 * DAY + 1, False), (-DAY, True)])
def test_row_66_an_event_older_than_the_inbox_remembers_is_refused_and_not_taken_as_new(age_seconds, fine):
    if fine:
        claim(message(at=NOW - age_seconds))
    else:
        with pytest.raises(errors.EventTooOld, match="7 days old"):
            claim(message(at=NOW - age_seconds))


def test_an_event_more_than_a_day_ahead_is_refused():
    with pytest.raises(errors.EventFromFuture, match="compare the clocks"):
        claim(message(at=NOW + DAY + 1))


@given(st.integers(0, 9 * DAY - 1), st.integers(-DAY, 7 * DAY))
def test_the_leaf_of_an_event_that_is_taken_is_never_one_that_may_be_emptied(moment, age_seconds):
    now = NOW + moment
    _, statement = Receiving("s", clock=lambda: now).claim(message(at=now - age_seconds))
    today = now // DAY
    assert statement.params[2] in {day % 9 for day in range(today - 7, today + 2)}


def test_row_70_a_huge_foreign_header_is_dropped():
    delivery, _ = claim(message(traceparent="x" * 1_000_000))
    assert "traceparent" not in delivery.headers


def test_an_older_writer_is_read_through_the_types_own_schema():
    old = message(value=frame(OLD.schema_id, OLD.encode({"order_id": 5})))
    delivery, _ = claim(old, types=[OrderPlaced], schemas=Shelf(OLD))
    assert delivery.event == OrderPlaced(5, "none")
    delivery, _ = claim(old, schemas=Shelf(OLD))
    assert delivery.event == {"order_id": 5}


@pytest.mark.parametrize("consumer", ["", "x" * 201, "a\0", None])
def test_a_consumer_needs_a_name(consumer):
    with pytest.raises(ValueError, match="consumer's name"):
        Receiving(consumer)


def test_a_delivery_does_not_print_its_payload():
    assert repr(Delivery(message(), receiving())) == f"<Delivery OrderPlaced {UUID(int=7)} orders[3]@17 duplicate>"
