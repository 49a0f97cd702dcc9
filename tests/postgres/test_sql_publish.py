"""`dovetail.publish` in SQL, as the application's role: what it stores, what it refuses, whose transaction it is in."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

import dovetail
from dovetail.psycopg import AsyncOutbox, Outbox
from dovetail_relay.encode.from_json import FromJson
from dovetail_schemas import envelope
from dovetail_schemas.avro import Codec
from support.shop import PLACED, OrderPlaced

pytest_plugins = ["support.outbox_database"]

PUBLISH = "SELECT dovetail.publish(%s, %s, %s, %s::jsonb)"


@pytest.fixture(autouse=True)
def _registered(conn):
    dovetail.register(conn, OrderPlaced)


def rows(owner):
    return owner.execute(
        "SELECT id, aggregatetype, aggregateid, type, convert_from(payload, 'UTF8'), schema_fingerprint, encoding,"
        " headers FROM dovetail.outbox ORDER BY seq"
    ).fetchall()


def test_an_event_is_stored_as_json_under_the_newest_schema_of_its_type(conn, owner):
    event_id = conn.execute(PUBLISH, ("order", "42", "OrderPlaced", '{"order_id": 42}')).fetchone()[0]
    assert isinstance(event_id, UUID)
    assert rows(owner) == [(event_id, "order", "42", "OrderPlaced", '{"order_id": 42}', PLACED.fingerprint, "json", {})]


def test_a_later_schema_pins_later_events_and_leaves_the_earlier_ones(conn, owner):
    newer = dovetail.EventType.from_avsc(
        {
            "type": "record",
            "name": "OrderPlaced",
            "fields": [{"name": "order_id", "type": "long"}, {"name": "rush", "type": "boolean", "default": False}],
        },
        aggregate="order", key="order_id", type="OrderPlaced",
    )  # fmt: skip
    conn.execute(PUBLISH, ("order", "1", "OrderPlaced", '{"order_id": 1}'))
    dovetail.register(conn, newer)
    conn.execute(PUBLISH, ("order", "1", "OrderPlaced", '{"order_id": 1}'))
    assert [row[5] for row in rows(owner)] == [PLACED.fingerprint, newer.fingerprint]


def test_plain_text_of_any_client_will_do_with_named_arguments(conn, owner):
    answer = conn.pgconn.exec_(
        b"""SELECT dovetail.publish(aggregatetype => 'order', aggregateid => '7', type => 'OrderPlaced',
                payload => '{"order_id": 7, "note": "caf\\u00e9"}', headers => '{"tenant": "a"}',
                id => '01890a5d-ac96-774b-bcce-b302099a8057')"""
    )
    assert answer.get_value(0, 0) == b"01890a5d-ac96-774b-bcce-b302099a8057"
    (row,) = rows(owner)
    assert (row[2], json.loads(row[4]), row[7]) == ("7", {"order_id": 7, "note": "café"}, {"tenant": "a"})


@pytest.mark.parametrize("whole", [True, False])
def test_a_rolled_back_event_is_not_there_and_the_function_begins_and_commits_nothing(conn, owner, whole):
    with conn.transaction(force_rollback=whole):
        conn.execute(PUBLISH, ("order", "1", "OrderPlaced", '{"order_id": 1}'))
        with conn.transaction(force_rollback=True):
            conn.execute(PUBLISH, ("order", "2", "OrderPlaced", '{"order_id": 2}'))
        assert not rows(owner)
    assert [row[2] for row in rows(owner)] == ([] if whole else ["1"])


def test_in_autocommit_the_statement_is_a_transaction_of_its_own(conn, owner):
    conn.execute(PUBLISH, ("order", "1", "OrderPlaced", '{"order_id": 1}'))
    assert len(rows(owner)) == 1


def test_a_type_without_a_schema_is_refused_and_told_how_to_get_one(conn, owner):
    with pytest.raises(psycopg.errors.UndefinedObject, match='type "OrderLost" has no schema') as caught:
        conn.execute(PUBLISH, ("order", "1", "OrderLost", "{}"))
    assert "dovetail.register(conn" in caught.value.diag.message_hint
    assert not rows(owner)


@pytest.mark.parametrize("place", range(6))
def test_null_is_refused_by_the_name_of_the_argument(conn, owner, place):
    names = ("aggregatetype", "aggregateid", "type", "payload", "headers", "id")
    given = ["order", "1", "OrderPlaced", "{}", "{}", "01890a5d-ac96-774b-bcce-b302099a8057"]
    given[place] = None
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match=f"{names[place]} must not be NULL"):
        conn.execute("SELECT dovetail.publish(%s, %s, %s, %s::jsonb, %s::jsonb, %s::uuid)", given)
    assert not rows(owner)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ("[]", "a JSON array, not an object"),
        ('{"a": 1}', 'header "a" is a JSON number'),
        ('{"a": null}', 'header "a" is a JSON null'),
        ('{"": "x"}', "not allowed"),
        ('{"a b": "x"}', "not allowed"),
        *[
            (json.dumps({name: "x"}), "not allowed")
            for name in ("id", "Type", "position", "replay", "ce_id", "DOVETAIL_x")
        ],
    ],
)
def test_a_header_that_the_relay_would_not_send_is_refused_at_once(conn, owner, headers, said):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=said):
        conn.execute("SELECT dovetail.publish('order', '1', 'OrderPlaced', '{}', headers => %s::jsonb)", (headers,))
    assert not rows(owner)


def test_the_nil_id_an_empty_key_and_an_id_used_twice_are_refused(conn):
    for key, event_id, error in (
        ("1", UUID(int=0), psycopg.errors.InvalidParameterValue),
        ("", UUID(int=5), psycopg.errors.InvalidParameterValue),
        ("1", UUID(int=6), None),
        ("1", UUID(int=6), psycopg.errors.UniqueViolation),
    ):
        statement = "SELECT dovetail.publish('order', %s, 'OrderPlaced', '{}', id => %s)"
        if error is None:
            conn.execute(statement, (key, event_id))
            continue
        with pytest.raises(error):
            conn.execute(statement, (key, event_id))


@pytest.mark.parametrize("function", ["publish", "publish_json"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("", "1", "OrderPlaced"), "aggregatetype has 0 bytes; 1 to 200"),
        (("a" * 201, "1", "OrderPlaced"), "aggregatetype has 201 bytes; 1 to 200"),
        (("order", "", "OrderPlaced"), "aggregateid has 0 bytes; 1 to 1024"),
        (("order", "ü" * 513, "OrderPlaced"), "aggregateid has 1026 bytes; 1 to 1024"),
        (("order", "1", "t" * 256), "type has 256 bytes; 1 to 255"),
    ],
)
def test_a_name_of_the_wrong_length_is_refused_without_a_word_of_the_payload(conn, owner, function, names, said):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=said) as caught:
        conn.execute(f"SELECT dovetail.{function}(%s, %s, %s, '{{\"order_id\": 8675309}}')", names)
    assert "8675309" not in str(caught.value)
    assert caught.value.diag.message_detail is None
    assert not rows(owner)


def test_headers_beyond_the_limit_are_refused(conn):
    headers = json.dumps({"a": "x" * 40_000})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="at most 32768 are allowed"):
        conn.execute("SELECT dovetail.publish('order', '1', 'OrderPlaced', '{}', headers => %s::jsonb)", (headers,))


def test_json_for_a_passthrough_route_needs_no_schema_and_keeps_its_spelling(conn, owner):
    spelled = '{"zz":1,  "a": 1.10, "a": 2}'
    event_id = conn.execute("SELECT dovetail.publish_json('doc', '1', 'DocWritten', %s)", (spelled,)).fetchone()[0]
    assert rows(owner) == [(event_id, "doc", "1", "DocWritten", spelled, None, "json", {})]
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        conn.execute("SELECT dovetail.publish_json('doc', '1', 'DocWritten', 'not JSON')")
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="payload must not be NULL"):
        conn.execute("SELECT dovetail.publish_json('doc', '1', 'DocWritten', NULL)")


def test_it_runs_with_the_rights_of_its_caller_and_nobody_else_may_call_it(outbox_database, owner):
    with psycopg.connect(outbox_database.relay_dsn, autocommit=True) as stranger:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(PUBLISH, ("order", "1", "OrderPlaced", "{}"))
    assert not rows(owner)


def test_a_callers_search_path_cannot_put_another_table_or_function_in_between(conn, owner):
    conn.execute("CREATE TEMP TABLE event_schema_version (subject text, version int, fingerprint bytea)")
    conn.execute("SET search_path = pg_temp, public")
    conn.execute(PUBLISH, ("order", "1", "OrderPlaced", '{"order_id": 1}'))
    assert [row[5] for row in rows(owner)] == [PLACED.fingerprint]


EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "i", "type": "int"},
        {"name": "l", "type": ["null", "long"], "default": None},
        {
            "name": "d",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2},
            "default": "\u0000",
        },
        {"name": "x", "type": "double", "default": 0.5},
        {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": None},
    ],
}


@pytest.mark.parametrize(
    ("payload", "fits"),
    [
        ('{"i": 1}', True),
        ('{"i": 5.0}', True),
        ('{"i": 1, "l": 9223372036854775807}', True),
        ('{"i": 1, "d": 9.90}', True),
        ('{"i": 1, "d": "9.90"}', True),
        ('{"i": 1, "t": "2026-01-31T12:00:00.123456+02:00"}', True),
        ('{"i": 1, "t": "2026-01-31T12:00:00.123456000Z"}', True),
        ('{"i": 1, "x": 1e300}', True),
        ('{"i": 1.5}', False),
        ('{"i": 2147483648}', False),
        ('{"i": 1, "l": 9223372036854775808}', False),
        ('{"i": 1, "d": 1.999}', False),
        ('{"i": 1, "d": "NaN"}', False),
        ('{"i": 1, "x": "NaN"}', False),
        ('{"i": 1, "t": "2026-01-31T12:00:00"}', False),
        ('{"i": 1, "t": "2026-01-31T12:00:00.123456789Z"}', False),
        ('{"i": 1, "t": "infinity"}', False),
        ('{"i": 1, "more": 2}', False),
        ("{}", False),
        ("[]", False),
        ('"i"', False),
    ],
)
def test_what_jsonb_hands_back_is_encoded_as_it_was_meant_or_refused(conn, owner, payload, fits):
    kind = dovetail.EventType.from_avsc(EVERYTHING, aggregate="order", key=lambda _: "k", type="Everything")
    dovetail.register(conn, kind)
    conn.execute(PUBLISH, ("order", "1", "Everything", payload))
    stored = rows(owner)[0][4].encode()
    if fits:
        decoded = Codec(EVERYTHING).decode(FromJson(kind.codec.normalised).encode(stored))
        assert decoded["i"] == int(json.loads(payload)["i"])
    else:
        with pytest.raises(ValueError, match=r"."):
            FromJson(kind.codec.normalised).encode(stored)


def test_nan_and_infinity_are_no_json_and_the_server_says_so(conn):
    for word in ("NaN", "Infinity"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            conn.execute(PUBLISH, ("order", "1", "OrderPlaced", f'{{"order_id": {word}}}'))


async def test_messages_are_refused_while_no_relay_of_the_database_reads_them(outbox_database, conn, owner):
    wal = Outbox(mode="wal")
    with pytest.raises(dovetail.errors.MessagesNotRead, match=r"messages = true"), conn.transaction():
        wal.publish(conn, OrderPlaced(1))
    async with await psycopg.AsyncConnection.connect(outbox_database.app_dsn) as asynchronous:
        with pytest.raises(dovetail.errors.MessagesNotRead):
            await AsyncOutbox(mode="wal").publish(asynchronous, OrderPlaced(1))
    owner.execute(
        "INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, publication_fingerprint, messages)"
        " VALUES ('r', 'r', '1', '0/0', 'x', true)"
    )
    with conn.transaction():
        ids = [wal.publish(conn, OrderPlaced(1)), *wal.publish_many(conn, [OrderPlaced(2), OrderPlaced(3)])]
    assert len(set(ids)) == 3
    with pytest.raises(dovetail.errors.OutboxNotInTransaction):
        wal.publish(conn, OrderPlaced(1))
    with conn.transaction(), pytest.raises(dovetail.errors.SchemaMismatch):
        wal.publish(conn, OrderPlaced("one"))
    assert not rows(owner)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'table' or 'wal'"):
        Outbox(mode="wall")


PAGE = Path(__file__).parents[2] / "docs/how-to/other-languages.md"


def test_the_blocks_of_the_page_about_other_languages_run_as_they_stand(outbox_database, conn, owner, monkeypatch):
    for name, value in outbox_database.environment().items():
        monkeypatch.setenv(name, value)
    register, _with_wal = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text())
    shown: dict[str, Any] = {}
    exec(register, shown)
    owner.execute("CREATE TABLE orders (id bigint, amount numeric)")
    owner.execute("GRANT INSERT ON orders TO app")
    blocks = re.findall(r"(?ms)^```sql\n(.*?)^```$", PAGE.read_text())
    assert len(blocks) == 4
    for block in blocks:
        conn.execute(block)
    kind = shown["order_placed"]
    encode = FromJson(kind.codec.normalised).encode
    assert [kind.codec.decode(encode(row[4].encode())) for row in rows(owner) if row[5]] == [
        {"order_id": 42, "amount": Decimal("9.90")}, {"order_id": 42, "amount": None},
    ]  # fmt: skip
    content = blocks[-1].partition("'dovetail', ")[2].partition("),\n    pg_logical")[0]
    event = envelope.unpack(conn.execute(f"SELECT {content}").fetchone()[0])
    assert (event.aggregatetype, event.aggregateid, event.type) == (b"order", b"42", b"OrderPlaced")
    assert (event.schema_fingerprint, event.encoding, event.headers) == (kind.fingerprint, b"json", b"")
