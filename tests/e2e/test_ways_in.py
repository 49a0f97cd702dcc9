"""Every way in, through a real relay to a reader that knows nothing of Dovetail."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from confluent_kafka import Message

import dovetail
from dovetail.psycopg import AsyncOutbox, Outbox
from dovetail_local.stack import Stack
from dovetail_relay.setup.install import Plan, install
from dovetail_schemas.envelope import Envelope, pack
from support.operator import run
from support.stuck import parked
from support.topic import headers, messages
from support.waiting import wait_until
from support.world import World, app, decoded, new_world
from support.writers import numbered

MESSAGES = {"DOVETAIL_OUTBOX__MESSAGES": "true"}
EMIT = "SELECT pg_logical_emit_message(%s, %s, %s::bytea)"
EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "namespace": "shop",
    "fields": [
        {"name": "whole", "type": "int"},
        {"name": "long", "type": "long"},
        {"name": "real", "type": "double"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "moment", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "reference", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "blob", "type": "bytes"},
        {"name": "maybe", "type": ["null", "string", "long"]},
        {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
            {"name": "sku", "type": "string"}, {"name": "count", "type": "int", "default": 1}]}}},
        {"name": "note", "type": "string", "default": "none"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    """One relay that reads rows and messages, and adds every set of headers."""
    with new_world(stack, **MESSAGES, DOVETAIL_OUTBOX__HEADERS="cloudevents,debezium") as made:
        made.relay().wait_streaming()
        yield made


def of_key(world: World, key: str, count: int, topic: str | None = None) -> list[Message]:
    """The messages of one key, once `count` of them are there."""
    found: list[Message] = []

    def there() -> bool:
        found[:] = [
            message
            for message in messages(world.endpoints.bootstrap_servers, topic or world.topic, 1)
            if message.key() == key.encode()
        ]
        return len(found) >= count

    wait_until(there, 60, f"{count} events of {key} are there")
    return found


@pytest.mark.parametrize("language", ["psycopg", "plain SQL"])
def test_json_from_sql_is_avro_at_the_readers_side(world: World, language: str) -> None:
    kind = dovetail.EventType.from_avsc(EVERYTHING, aggregate=world.aggregate, key=lambda _: "k")
    payload = """{"whole": 5.0, "long": 9007199254740993, "real": 0.1, "amount": %s,
        "moment": "2026-01-31T12:00:00.123456+02:00", "reference": "01890a5d-ac96-774b-bcce-b302099a8057",
        "blob": "base64:Cv8=", "maybe": 7, "lines": [{"sku": "a", "count": 2}, {"sku": "ü"}]}"""
    with app(world) as connection:
        dovetail.register(connection, kind)
        if language == "psycopg":
            connection.execute(
                "SELECT dovetail.publish(%s, %s, %s, %s::jsonb)",
                (world.aggregate, language, kind.name, payload % "9.90"),
            )
        else:
            text = payload % '"9.90"'
            statement = f"SELECT dovetail.publish('{world.aggregate}', '{language}', '{kind.name}', '{text}')"
            answer = connection.pgconn.exec_(statement.encode())
            assert answer.ntuples == 1, answer.error_message
    (message,) = of_key(world, language, 1)
    assert decoded(world, message) == {
        "whole": 5, "long": 9007199254740993, "real": 0.1, "amount": Decimal("9.90"),
        "moment": datetime(2026, 1, 31, 10, 0, 0, 123456, UTC),
        "reference": uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057"), "blob": b"\x0a\xff", "maybe": 7,
        "lines": [{"sku": "a", "count": 2}, {"sku": "ü", "count": 1}], "note": "none",
    }  # fmt: skip
    assert headers(message)["type"] == "shop.Everything"


def test_rows_and_messages_of_one_transaction_share_its_order_and_a_rolled_back_savepoint_shows_nothing(
    world: World,
) -> None:
    event, table, wal = numbered(world.aggregate), Outbox(), Outbox(mode="wal")
    before = datetime.now(UTC)
    with app(world) as connection:
        for number in range(1, 7):
            (wal if number % 2 else table).publish(connection, event({"key": "mixed", "number": number}))
        connection.execute("SAVEPOINT inner_part")
        wal.publish(connection, event({"key": "mixed", "number": 100}))
        connection.execute("ROLLBACK TO SAVEPOINT inner_part")
        # Sent at once, whatever becomes of the transaction: never an event.
        connection.execute(EMIT, (False, "dovetail", b"not an event"))
        connection.execute(EMIT, (True, "somebody.else", b"not ours"))
        wal.publish_many(connection, [event({"key": "mixed", "number": number}) for number in (7, 8)])
        connection.commit()
        wal.publish(connection, event({"key": "mixed", "number": 200}))
        connection.execute(EMIT, (False, "dovetail", b"not an event"))
        connection.rollback()
        wal.publish(connection, event({"key": "mixed", "number": 9}), headers={"tenant": "ü"})
    found = of_key(world, "mixed", 9)
    assert [decoded(world, message)["number"] for message in found] == list(range(1, 10))
    positions = [headers(message)["position"].rpartition("/") for message in found]
    assert [index for _, _, index in positions] == ["0", "1", "2", "3", "4", "5", "6", "7", "0"]
    assert len({transaction for transaction, _, _ in positions}) == 2
    assert headers(found[-1])["tenant"] == "ü"
    assert abs(datetime.fromisoformat(headers(found[-1])["time"]) - before) < timedelta(minutes=1)
    _, metrics = world.relays[0].get("/metrics")
    assert 'dovetail_messages_ignored_total{reason="not_transactional"} 2.0' in metrics
    assert 'dovetail_messages_ignored_total{reason="prefix"} 1.0' in metrics


async def test_the_async_outbox_emits_as_well(world: World) -> None:
    event = numbered(world.aggregate)
    async with await psycopg.AsyncConnection.connect(world.endpoints.app_dsn) as connection:
        event_id = await AsyncOutbox(mode="wal").publish(connection, event({"key": "async", "number": 1}))
    (message,) = of_key(world, "async", 1)
    assert headers(message)["id"] == str(event_id)


def passed_over(world: World) -> list[str]:
    _, metrics = world.relays[0].get("/metrics")
    return [line for line in metrics.splitlines() if line.startswith("dovetail_messages_ignored_total{")]


def test_a_row_does_not_come_before_the_message_that_was_written_before_it(world: World) -> None:
    """Logical decoding knows a message by the end of its record, where the row behind it begins: the two tie."""
    event, table, wal = numbered(world.aggregate), Outbox(), Outbox(mode="wal")
    ignored = passed_over(world)
    with app(world, autocommit=True) as connection:
        for turn in range(20):
            key = f"tied-{turn}"
            with connection.transaction():
                with connection.transaction():
                    wal.publish(connection, event({"key": key, "number": 1}))
                table.publish(connection, event({"key": key, "number": 2}))
                with connection.transaction():
                    wal.publish_many(connection, [event({"key": key, "number": 3}), event({"key": key, "number": 4})])
                table.publish(connection, event({"key": key, "number": 5}))
    for turn in range(20):
        found = of_key(world, f"tied-{turn}", 5)
        assert [decoded(world, message)["number"] for message in found] == [1, 2, 3, 4, 5]
    assert passed_over(world) == ignored


def test_no_service_may_write_messages_before_a_relay_reads_them(stack: Stack) -> None:
    with new_world(stack) as world:
        event, wal = numbered(world.aggregate), Outbox(mode="wal")
        first = world.relay().wait_streaming()
        world.environ.update(MESSAGES)
        world.init()
        with app(world) as connection, pytest.raises(dovetail.errors.MessagesNotRead):
            wal.publish(connection, event({"key": "k", "number": 1}))
        first.terminate()
        world.relay().wait_streaming()
        with app(world) as connection:
            wal.publish(connection, event({"key": "k", "number": 2}))
        wait_until(lambda: [seen.number for seen in world.read_topic()] == [2], 20, "it is published")


def test_an_envelope_made_in_plain_sql_is_an_event(world: World) -> None:
    field = "int4send(octet_length({0})) || {0}"
    fields = " || ".join(
        field.format(f"convert_to({text}, 'UTF8')")
        for text in ("%(aggregate)s", "'by hand'", "'Numbered'")
    )  # fmt: skip
    rest = " || ".join(
        field.format(part)
        for part in (
            "dovetail.newest_schema('Numbered')", "convert_to('json', 'UTF8')", "''::bytea",
            """convert_to('{"key": "by hand", "number": 1}', 'UTF8')""",
        )
    )  # fmt: skip
    with app(world) as connection:
        connection.execute(
            "SELECT pg_logical_emit_message(true, 'dovetail', "
            f"'\\x01'::bytea || uuid_send(gen_random_uuid()) || {fields} || {rest})",
            {"aggregate": world.aggregate},
        )
    (message,) = of_key(world, "by hand", 1)
    assert decoded(world, message) == {"key": "by hand", "number": 1}


def test_every_set_of_headers_comes_beside_ours(world: World) -> None:
    with app(world) as connection:
        event_id = Outbox().publish(connection, numbered(world.aggregate)({"key": "sets", "number": 1}))
    (message,) = of_key(world, "sets", 1)
    found = headers(message)
    assert [name for name, _ in message.headers()][:4] == ["id", "type", "time", "position"]
    assert {name: found[name] for name in found if name.startswith("ce_")} == {
        "ce_specversion": "1.0", "ce_id": str(event_id), "ce_type": "Numbered", "ce_source": f"/dovetail/{world.name}",
        "ce_time": found["time"], "ce_subject": "sets",
    }  # fmt: skip
    assert (found["content-type"], found["eventType"], found["id"]) == ("application/avro", "Numbered", str(event_id))


@pytest.mark.parametrize("step", ["half", "committed"])
def test_a_kill_inside_a_large_transaction_of_rows_and_messages_neither_loses_nor_doubles(
    stack: Stack, step: str
) -> None:
    with new_world(stack, **MESSAGES, DOVETAIL_DELIVERY__BATCH_ROWS="300") as world:
        event, table, wal = numbered(world.aggregate), Outbox(), Outbox(mode="wal")
        world.relay().wait_streaming().terminate()
        with app(world) as connection:
            # More than two reads bring, so that no batch can hold it all.
            for start in range(1, 5000, 50):
                (wal if start % 100 == 1 else table).publish_many(
                    connection, [event({"key": "k", "number": number}) for number in range(start, start + 50)]
                )
        killed = world.relay("-m", "dovetail_relay.crash", step, "2")
        assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
        world.relay().wait_streaming()
        wait_until(lambda: len(world.read_topic()) >= 5000, 60, "all of them are there")
        assert [seen.number for seen in world.read_topic()] == list(range(1, 5001))


def stuck(world: World) -> str:
    """What the relay says of the event that it parked."""
    relay = world.relay()
    wait_until(lambda: relay.has_logged("message_stuck"), 30, f"the event is parked; so far:\n{relay.log()[-2000:]}")
    return relay.log()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no envelope at all", "envelope"),
        (pack(Envelope(b"i" * 16, b"order", b"1", b"T", b"", b"json", b"", b"{}"))[:-1], "69696969-"),
    ],
)
def test_a_malformed_envelope_is_parked_by_name_and_does_not_crash_the_relay(
    stack: Stack, content: bytes, said: str
) -> None:
    import re

    with new_world(stack, **MESSAGES) as world:
        with app(world) as connection:
            connection.execute(EMIT, (True, "dovetail", content))
        log = stuck(world)
        assert re.search(said, log), log[-1500:]
        assert "Traceback" not in log


def test_whatever_a_message_has_for_headers_it_can_be_parked_and_discarded_and_the_rest_goes_on(stack: Stack) -> None:
    with new_world(stack, **MESSAGES) as world:
        event = numbered(world.aggregate)
        own = [
            b"s3cret=a",
            b"\xff",
            b'{"a": "s3cret\\u0000"}',
            b'{"a": NaN}',
            b'{"a": "\\ud800"}',
            b'{"a": "a"} ',
            b"\0",
        ]
        with app(world) as connection:
            for headers in own:
                content = Envelope(b"i" * 16, world.aggregate.encode(), b"k", b"T", b"", b"json", headers, b"{}")
                connection.execute(EMIT, (True, "dovetail", pack(content)))
            Outbox().publish(connection, event({"key": "k2", "number": 1}))
        relay = world.relay()
        wait_until(lambda: len(world.read_topic()) == 1, 30, f"the rest is out; so far:\n{relay.log()[-2000:]}")
        assert "s3cret" not in relay.log()
        assert len(parked(world)) == len(own)
        assert run(world, "stuck", "discard", "--all", "--yes", "--reason", "a test")["discarded"] == len(own)
        assert parked(world) == []


def test_json_that_does_not_fit_its_schema_is_held_and_the_log_shows_no_value(stack: Stack) -> None:
    with new_world(stack) as world:
        with app(world) as connection:
            connection.execute(
                "SELECT dovetail.publish(%s, 'k', 'Numbered', %s::jsonb)",
                (world.aggregate, '{"key": "s3cret", "number": 1.5}'),
            )
        log = stuck(world)
        assert '"reason": "encoding"' in log or '"reason":"encoding"' in log
        assert "s3cret" not in log


def test_a_relay_that_would_not_read_promised_messages_does_not_start(stack: Stack) -> None:
    with new_world(stack, **MESSAGES) as world:
        world.relay().wait_streaming().terminate()
        relay = world.relay(DOVETAIL_OUTBOX__MESSAGES="false")
        wait_until(lambda: "outbox.messages is off" in relay.log(), 30, "the relay says what is wrong")
        assert not relay.has_logged("stream_started")
        # init with the option off takes the promise back.
        install(world.settings(**{"outbox.messages": "false"}), Plan(), lambda _: None, lambda _: None)
        world.relay(DOVETAIL_OUTBOX__MESSAGES="false").wait_streaming()


def test_a_passthrough_route_sends_the_payload_as_it_is_and_needs_no_schema(stack: Stack) -> None:
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__VALUE"] = "passthrough"
        world.relay().wait_streaming()
        payloads = [b'{"a":  1}', b"\x00\xff\x01 anything", b""]
        with app(world) as connection:
            for payload in payloads:
                connection.execute(
                    "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
                    " VALUES (gen_random_uuid(), %s, 'raw', 'Anything', %s)",
                    (world.aggregate, payload),
                )
        assert [message.value() for message in of_key(world, "raw", 3)] == payloads
