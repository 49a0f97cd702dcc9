"""Rows of a table that is not ours, and the headers that its readers look for."""

import json
import struct
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from dovetail_relay.config import load
from dovetail_relay.decode import pgoutput
from dovetail_relay.decode.pgoutput import Column, Moment, Relation
from dovetail_relay.encode.framing import Encoder
from dovetail_relay.errors import ConfigInvalid, OutboxAltered, StuckMessage
from dovetail_relay.nouns import Lsn, Record
from dovetail_relay.route.dialects import mapper_for
from dovetail_relay.route.headers import position_prefix
from dovetail_relay.route.router import Route, Router
from dovetail_relay.settings import values

UUID_OID, TEXT, VARCHAR, JSONB, JSON, BYTEA, TIMESTAMP, INT4 = 2950, 25, 1043, 3802, 114, 17, 1114, 23
EVENT_ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
FINGERPRINT = bytes(range(16))
DEBEZIUM = [
    ("id", UUID_OID), ("aggregatetype", VARCHAR), ("aggregateid", VARCHAR), ("type", VARCHAR), ("payload", JSONB),
]  # fmt: skip
NAMED = {"PAYLOAD": b'\x01{"a": 1}'}
ROW: list[bytes | None] = [EVENT_ID.bytes, b"order", b"42", b"Placed", b'\x01{"a": 1}']
PREFIX = position_prefix(1, Lsn(255))
NEEDED = {"DOVETAIL_POSTGRES__DSN": "host=localhost", "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092"}


def insert(cells: Sequence[bytes | None]) -> bytes:
    body = b"".join(b"n" if cell is None else b"b" + struct.pack("!i", len(cell)) + cell for cell in cells)
    return b"w" + bytes(24) + b"I\x00\x00\x40\x10N" + struct.pack("!H", len(cells)) + body


def relation_of(columns: list[tuple[str, int]], schema: str = "public", name: str = "outboxevent") -> Relation:
    return Relation(b"\0\0\x40\x10", schema, name, tuple(Column(*column) for column in columns))


def reader(columns: list[tuple[str, int]], moment: Moment | None = None, **mapped: str) -> Any:
    return pgoutput.row_reader(relation_of(columns), mapped, moment)


def record(row: Sequence[Any], *headers: str, value: str = "passthrough") -> Record:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, 7, '"string"')
    router = Router({"order": Route("orders", value)})  # type: ignore[arg-type]
    return mapper_for(("dovetail", *headers), "/dovetail/shop", router, encoder).record(tuple(row), PREFIX, 3)  # type: ignore[arg-type]


def test_debeziums_columns_are_enough_and_the_time_is_that_of_the_commit() -> None:
    moment = Moment()
    read = reader(DEBEZIUM, moment)
    moment.commit_us = 820_454_400_123_456
    made = record(read(insert(ROW)))
    assert (made.topic, made.key, made.value) == ("orders", b"42", b'{"a": 1}')
    assert made.headers == [
        ("id", str(EVENT_ID).encode()), ("type", b"Placed"),
        ("time", b"2025-12-31T00:00:00.123456Z"), ("position", b"1/00000000000000FF/3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        (JSONB, b'\x01{"a": 1}', b'{"a": 1}'),
        (JSON, b'{"a":1}', b'{"a":1}'),
        (TEXT, b"anything", b"anything"),
        (VARCHAR, b"", b""),
        (BYTEA, b"\x01\x00\xff", b"\x01\x00\xff"),
        (JSONB, None, None),
    ],
)
def test_a_payload_passes_through_as_it_is_without_jsonbs_version_byte(
    kind: int, cell: bytes | None, value: bytes | None
) -> None:
    read = reader([*DEBEZIUM[:4], ("payload", kind)])
    assert record(read(insert([*ROW[:4], cell]))).value == value


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("cell", [None, b""])
def test_a_row_without_id_type_or_key_is_stuck_and_not_published_without_them(place: int, cell: bytes | None) -> None:
    if place == 0 and cell is not None:
        return  # a uuid is never empty
    row = [*ROW[:place], cell, *ROW[place + 1 :]]
    with pytest.raises(StuckMessage) as caught:
        reader(DEBEZIUM)(insert(row))
    assert caught.value.reason == "null"
    assert caught.value.event_id == ("without an id" if place == 0 else str(EVENT_ID))


def test_a_column_of_the_users_own_that_has_our_name_by_chance_is_left_alone() -> None:
    chance = [*DEBEZIUM, ("created_at", TIMESTAMP), ("headers", TEXT), ("version", INT4)]
    moment = Moment()
    moment.commit_us = 9
    row = reader(chance, moment)(insert([*ROW, bytes(8), b"x", bytes(4)]))
    assert list(row[5:]) == [None, b"json", b"\x01{}", 9]
    relation = Relation(b"", "public", "outboxevent", tuple(Column(*column) for column in chance))
    assert list(pgoutput.columns_read(relation, {})) == [name for name, _ in DEBEZIUM]


def test_a_column_that_the_configuration_names_must_be_there_and_fit() -> None:
    with pytest.raises(OutboxAltered, match="created_at"):
        reader([*DEBEZIUM, ("created_at", TIMESTAMP)], created_at="created_at")
    with pytest.raises(OutboxAltered, match="moment"):
        reader(DEBEZIUM, created_at="moment")


def test_optional_columns_that_are_null_count_as_absent() -> None:
    columns = [*DEBEZIUM, ("headers", JSONB), ("encoding", TEXT), ("created_at", 1184)]
    moment = Moment()
    moment.commit_us = 9
    assert list(reader(columns, moment)(insert([*ROW, None, None, None]))[5:]) == [None, b"json", b"\x01{}", 9]


def test_a_table_of_our_shape_with_jsonb_payload_is_not_read_the_fast_way() -> None:
    ours = [
        *DEBEZIUM, ("schema_fingerprint", BYTEA), ("encoding", TEXT), ("headers", JSONB), ("created_at", 1184),
    ]  # fmt: skip
    assert reader(ours) is not pgoutput.usual_insert
    ours[4] = ("payload", BYTEA)
    assert pgoutput.row_reader(relation_of(ours, "dovetail", "outbox"), {}) is pgoutput.usual_insert
    # Another's columns may be NULL where ours are not.
    row = reader(ours)(insert([*ROW[:4], b"", None, None, None, None]))
    assert list(row[5:]) == [None, b"avro", b"\x01{}", 0]


def test_cloudevents_headers_are_those_of_kafkas_binary_mode() -> None:
    made = record(reader(DEBEZIUM)(insert(ROW)), "cloudevents")
    assert [name for name, _ in made.headers[:4]] == ["id", "type", "time", "position"]
    assert dict(made.headers[4:]) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": str(EVENT_ID).encode(),
        "ce_type": b"Placed",
        "ce_source": b"/dovetail/shop",
        "ce_time": b"2000-01-01T00:00:00.000000Z",
        "ce_subject": b"42",
    }


def own(**changes: Any) -> tuple[Any, ...]:
    row = dict(zip(pgoutput.FIELDS, [*ROW[:4], b"x", FINGERPRINT, b"avro", b"\x01{}", 0], strict=True))
    return tuple((row | changes).values())


@pytest.mark.parametrize(
    ("row", "value", "kind"),
    [
        (own(), "avro", b"application/avro"),
        (own(encoding=b"json", payload=b'"x"'), "avro", b"application/avro"),
        (own(), "passthrough", b"application/avro"),
        (own(encoding=b"json", payload=b"{}"), "passthrough", b"application/json"),
        (own(schema_fingerprint=None), "passthrough", b"application/octet-stream"),
        (own(payload=None), "passthrough", None),
        (own(headers=b'\x01{"Content-Type": "text/csv"}'), "avro", None),
    ],
)
def test_the_content_type_says_what_the_value_is_unless_the_row_does(
    row: tuple[Any, ...], value: str, kind: bytes | None
) -> None:
    assert dict(record(row, "cloudevents", value=value).headers).get("content-type") == kind


def test_debeziums_readers_find_the_type_where_its_router_puts_it_and_all_sets_go_together() -> None:
    assert dict(record(own(), "debezium", value="avro").headers)["eventType"] == b"Placed"
    both = dict(record(own(), "debezium", "cloudevents", value="avro").headers)
    assert (both["eventType"], both["ce_type"], both["type"]) == (b"Placed", b"Placed", b"Placed")


def test_the_rows_own_headers_are_not_changed_for_the_rows_behind_it() -> None:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, 7, '"string"')
    mapper = mapper_for(("cloudevents",), "/s", Router({}), encoder)
    row = own(headers=b'\x01{"tenant": "a"}')
    assert len(mapper.record(row, PREFIX, 0).headers) == len(mapper.record(row, PREFIX, 1).headers) == 12


def test_another_table_has_a_publication_of_its_own_and_passes_payloads_through_unless_told_otherwise() -> None:
    foreign = {"DOVETAIL_OUTBOX__TABLE": "public.outboxevent", "DOVETAIL_ROUTES__ORDER__ON_STUCK": "hold"}
    found = load(None, {**NEEDED, **foreign, "DOVETAIL_RELAY__NAME": "shop"})
    assert (found.outbox.publication, found.outbox.value) == ("dovetail_outboxevent", "passthrough")
    assert (found.routes["order"].value, found.outbox.source) == ("passthrough", "/dovetail/shop")
    said = load(None, {
        **NEEDED, **foreign, "DOVETAIL_OUTBOX__PUBLICATION": "mine", "DOVETAIL_OUTBOX__VALUE": "avro",
        "DOVETAIL_ROUTES__X__VALUE": "passthrough", "DOVETAIL_OUTBOX__HEADERS": "cloudevents,debezium",
    })  # fmt: skip
    assert (said.outbox.publication, said.routes["order"].value) == ("mine", "avro")
    assert (said.routes["x"].value, said.outbox.headers) == ("passthrough", ("cloudevents", "debezium"))
    ours = load(None, NEEDED)
    assert (ours.outbox.publication, ours.outbox.value, ours.outbox.headers) == ("dovetail", "avro", ("dovetail",))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DOVETAIL_OUTBOX__COLUMNS", "playload=body", "did you mean 'payload'"),
        ("DOVETAIL_OUTBOX__HEADERS", "cloudevent", "did you mean 'cloudevents'"),
        ("DOVETAIL_OUTBOX__HEADERS", "", "not one of"),
        ("DOVETAIL_OUTBOX__VALUE", "json", "not one of avro, passthrough"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_the_nearest_one(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        load(None, {**NEEDED, variable: value})


def test_the_columns_that_can_be_mapped_are_those_that_the_decoder_reads() -> None:
    assert values._COLUMNS == pgoutput.FIELDS
    assert json.dumps(list(values._COLUMNS))
