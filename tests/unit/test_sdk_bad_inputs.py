"""Wrong arguments to publish: refused before anything is sent, in one line, without the payload."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import pytest

import dovetail
from dovetail import errors
from dovetail.outbox import MAX_PAYLOAD_BYTES, Publishing, insert_many, insert_one

SECRET = "4111-1111-1111-1111"
PUBLISHING = Publishing()


@dovetail.event("OrderPlaced", aggregate="order", key="order_id")
@dataclass
class OrderPlaced:
    order_id: int | None = 42
    amount: Annotated[Decimal, dovetail.Decimal(5, 2)] = Decimal("9.90")
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    note: str = SECRET


KIND = dovetail.EventType.of(OrderPlaced)


def refused(kind, event=None, **arguments):
    with pytest.raises(kind) as caught:
        PUBLISHING.row(event if event is not None else OrderPlaced(), **arguments)
    message = str(caught.value)
    assert isinstance(caught.value, dovetail.DovetailError)
    assert "\n" not in message
    assert SECRET not in message
    assert len(message) < 250
    return message


def payload(**changes):
    fields = {"order_id": 42, "amount": Decimal("9.90"), "at": datetime(2026, 1, 1, tzinfo=UTC), "note": SECRET}
    return KIND({**fields, **changes})


def test_a_good_event_becomes_a_row():
    row = PUBLISHING.row(OrderPlaced())
    assert (row.aggregatetype, row.aggregateid, row.type, row.headers) == ("order", "42", "OrderPlaced", "{}")
    assert row.schema_fingerprint == KIND.fingerprint
    assert row.id.version == 7
    assert KIND.codec.decode(row.payload)["order_id"] == 42
    assert insert_one(row).params == row


def test_row_3_a_key_of_none_is_refused_because_order_is_kept_per_key():
    assert "pass key=" in refused(errors.KeyRequired, OrderPlaced(order_id=None))
    with pytest.raises(ValueError, match="key is None"):
        PUBLISHING.row(OrderPlaced(order_id=None))
    assert PUBLISHING.row(OrderPlaced(order_id=None), key="k").aggregateid == "k"


@pytest.mark.parametrize("key", ["", "k" * 1025, "é" * 513, 1.5, True, b"k", ("a",), "a\0b", "\ud800"])
def test_row_4_a_key_that_is_not_text_of_1_to_1024_bytes_is_refused(key):
    refused(errors.KeyInvalid, key=key)


@pytest.mark.parametrize(("key", "text"), [("é" * 512, "é" * 512), (7, "7"), (UUID(int=5), str(UUID(int=5)))])
def test_a_key_may_be_text_an_int_or_a_uuid(key, text):
    assert PUBLISHING.row(OrderPlaced(), key=key).aggregateid == text


def test_row_8_a_lone_surrogate_is_refused_with_its_path():
    assert refused(errors.SchemaMismatch, payload(note="\ud800")).startswith("OrderPlaced.note: ")


@pytest.mark.parametrize("value", [1.5, 2**63, "42", True])
def test_row_9_a_number_that_the_schema_would_cut_is_refused(value):
    assert refused(errors.SchemaMismatch, payload(order_id=value), key=1).startswith("OrderPlaced.order_id: ")


def test_row_10_a_missing_and_an_extra_field_are_refused_by_name():
    assert "no field 'extra'" in refused(errors.SchemaMismatch, payload(extra=1))
    kind = dovetail.EventType.from_avsc(
        {"type": "record", "name": "R", "fields": [{"name": "k", "type": "int"}, {"name": "f", "type": "int"}]},
        aggregate="r",
        key="k",
    )
    assert refused(errors.SchemaMismatch, kind({"k": 1})) == "R.f: is missing and has no default"


def test_row_11_a_naive_datetime_is_refused():
    assert "has no time zone" in refused(errors.SchemaMismatch, payload(at=datetime(2026, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize("amount", [Decimal(1000), Decimal("1.001"), Decimal("NaN")])
def test_row_12_a_decimal_beyond_precision_or_scale_is_refused(amount):
    assert "decimal(5, 2)" in refused(errors.SchemaMismatch, payload(amount=amount))


@pytest.mark.parametrize("value", [b"bytes", {1}, object()])
def test_row_13_a_value_of_a_wrong_type_is_a_type_error_with_its_path(value):
    assert refused(TypeError, payload(note=value)).startswith("OrderPlaced.note: ")


def test_row_14_a_payload_above_the_limit_is_refused_before_commit():
    assert "publish a reference" in refused(errors.PayloadTooLarge, OrderPlaced(note="x" * MAX_PAYLOAD_BYTES))
    with pytest.raises(errors.PayloadTooLarge, match="more than the 10 allowed"):
        Publishing(max_payload_bytes=10).row(OrderPlaced())
    with pytest.raises(ValueError, match="at least 1"):
        Publishing(max_payload_bytes=0)


@pytest.mark.parametrize("event_id", ["not-a-uuid", 5, b"x" * 16, UUID(int=0), str(UUID(int=0))])
def test_row_16_an_event_id_that_is_not_a_uuid_is_refused(event_id):
    refused(errors.EventIdInvalid, event_id=event_id)


def test_an_event_id_may_be_a_uuid_or_its_text():
    event_id = dovetail.uuid7()
    assert PUBLISHING.row(OrderPlaced(), event_id=event_id).id == event_id
    assert PUBLISHING.row(OrderPlaced(), event_id=str(event_id)).id == event_id


@pytest.mark.parametrize("event", ["text", 5, None, {"order_id": 1}, OrderPlaced])
def test_something_that_is_not_an_event_is_refused(event):
    with pytest.raises(errors.DovetailError):
        PUBLISHING.row(event)


@pytest.mark.parametrize(
    "headers",
    [{"id": "x"}, {"Position": "x"}, {"ce_id": "x"}, {"dovetail_x": "y"}, {"a": 1}, {"a": None}, {"a": b"x"}, {"": "x"},
     {"a b": "x"}, {"é": "x"}, {5: "x"}, {"a": "\0"}, {"a": "\ud800"}, {"a": "x" * 40_000}, {"n" * 201: "x"}],
)  # fmt: skip
def test_a_header_that_is_not_text_or_has_our_name_is_refused(headers):
    refused(errors.HeaderInvalid, headers=headers)


def test_headers_of_the_event_and_of_the_call_are_joined_and_trace_context_passes():
    event = KIND(OrderPlaced(), headers={"tenant": "a", "traceparent": "00-1-2-01"})
    assert PUBLISHING.row(event, headers={"tenant": "b"}).headers == '{"tenant":"b","traceparent":"00-1-2-01"}'


def test_arguments_of_the_call_win_over_those_of_the_event():
    event = KIND(OrderPlaced(), key="one")
    row = PUBLISHING.row(event, key="two", event_id=UUID(int=9))
    assert (row.aggregateid, row.id) == ("two", UUID(int=9))
    assert PUBLISHING.row(event).id == event.id


def test_many_rows_are_one_statement_until_size_or_number_ask_for_another():
    rows = [PUBLISHING.row(OrderPlaced(order_id=number)) for number in range(5)]
    (statement,) = insert_many(rows)
    assert statement.params[2] == ["0", "1", "2", "3", "4"]
    large = [PUBLISHING.row(OrderPlaced(note="x" * 800_000))] * 50
    assert [len(statement.params[0]) for statement in insert_many(large)] == [41, 9]
    assert not list(insert_many([]))


def test_every_error_is_in_the_drawing_of_the_tree():
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in classes)
    assert {cls.__name__ for cls in classes} == set(errors.__all__)
