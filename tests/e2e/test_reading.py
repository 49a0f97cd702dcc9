"""What a consumer that knows nothing of Dovetail finds: Confluent's own deserialiser at the relay's port."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import psycopg
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

import dovetail
from dovetail.errors import SchemaUnknown
from dovetail.psycopg import Inbox, Outbox
from dovetail.registry import HttpSchemas
from dovetail_local.stack import Stack
from support.waiting import wait_until
from support.world import PARTITIONS, World, new_world


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


@dataclass
class Address:
    street: str
    zip_code: str | None


@dataclass
class Invoice:
    invoice_id: str
    amount: Annotated[Decimal, dovetail.Decimal(12, 2)]
    due: datetime
    reference: uuid.UUID
    address: Address
    note: str | None = None


# As the class looks after a release: the same name, and a field more.
LaterInvoice = make_dataclass("Invoice", [("paid", bool, False)], bases=(Invoice,))
KEYS = ["1", "key", "ключ", "a/b c", "x" * 200, "😀", "with\nnewline", "21", "00", "É"]
DUE = datetime(2026, 3, 4, 5, 6, 7, 891_011, tzinfo=UTC)
REFERENCE = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")


@pytest.fixture(scope="module")
def read(world: World) -> Iterator[tuple[list[Message], list[uuid.UUID], str]]:
    """(the topic's messages, the events' ids, the relay's address)."""
    invoice = dovetail.event("InvoiceSent", aggregate=world.aggregate, key="invoice_id")(Invoice)
    outbox, ids = Outbox(), []
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        dovetail.register(connection, invoice)
    with psycopg.connect(world.endpoints.app_dsn) as connection:
        for number, key in enumerate(KEYS):
            ids.append(
                outbox.publish(
                    connection,
                    invoice(
                        key, Decimal("-1234567890.05"), DUE, REFERENCE, Address("Main", None if number % 2 else "1010")
                    ),
                    headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
                )
            )
    relay = world.relay().wait_streaming()
    consumer = Consumer(
        {
            "bootstrap.servers": world.endpoints.bootstrap_servers,
            "group.id": "reading",
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(world.topic, partition, 0) for partition in range(PARTITIONS)])
    messages: list[Message] = []

    def all_are_here() -> bool:
        messages.extend(message for message in consumer.consume(100, timeout=0.1) if message.error() is None)
        return len(messages) >= len(KEYS)

    wait_until(all_are_here, 20, "all events are in the topic")
    consumer.close()
    yield messages, ids, f"http://127.0.0.1:{relay.port()}"
    relay.kill()


Read = tuple[list[Message], list[uuid.UUID], str]


def test_confluents_own_deserialiser_reads_every_logical_type(read: Read) -> None:
    messages, _, address = read
    deserialize: Any = AvroDeserializer(SchemaRegistryClient({"url": address}))
    found = {}
    for message in messages:
        value = deserialize(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
        assert value["amount"] == Decimal("-1234567890.05")
        assert value["due"] == DUE
        assert str(value["reference"]) == str(REFERENCE)
        assert value["note"] is None
        found[value["invoice_id"]] = value["address"]
    assert sorted(found) == sorted(KEYS)
    assert found[KEYS[0]] == {"street": "Main", "zip_code": "1010"}
    assert found[KEYS[1]] == {"street": "Main", "zip_code": None}


def test_a_later_version_of_a_class_reads_older_events_by_the_relays_registry(read: Read, world: World) -> None:
    messages, _, address = read
    later = dovetail.event("InvoiceSent", aggregate=world.aggregate, key="invoice_id")(LaterInvoice)
    blind = Inbox(consumer="blind", types=[later])
    inbox = Inbox(consumer="reads both", types=[later], schemas=HttpSchemas(address))
    with psycopg.connect(world.endpoints.app_dsn, autocommit=True) as connection:
        with (
            pytest.raises(SchemaUnknown, match="InvoiceSent was written with schema"),
            connection.transaction(),
            blind.receive(connection, messages[0]) as delivery,
        ):
            assert delivery.event
        with connection.transaction(), inbox.receive(connection, messages[0]) as delivery:
            assert delivery.event.paid is False
            assert delivery.event.invoice_id in KEYS


def test_the_key_is_the_aggregates_id_in_utf_8(read: Read) -> None:
    assert sorted(message.key().decode() for message in read[0]) == sorted(KEYS)


def test_the_headers_are_the_documented_ones(read: Read) -> None:
    messages, ids, _ = read
    assert {dict(message.headers())["id"].decode() for message in messages} == {str(event_id) for event_id in ids}
    positions = []
    for message in messages:
        names = [name for name, _ in message.headers()]
        headers = dict(message.headers())
        assert names == ["id", "type", "time", "position", "traceparent"]
        assert headers["type"] == b"InvoiceSent"
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", headers["time"])
        assert re.fullmatch(rb"1/[0-9A-F]{16}/\d+", headers["position"])
        positions.append(headers["position"].split(b"/"))
    assert len({bytes(lsn) for _, lsn, _ in positions}) == 1  # one transaction
    assert sorted(int(index) for _, _, index in positions) == list(range(len(KEYS)))


def murmur2(data: bytes) -> int:
    """Java's `org.apache.kafka.common.utils.Utils.murmur2`, written from its definition."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_events_lie_in_the_partition_that_java_would_choose(read: Read) -> None:
    assert murmur2(b"21") == 0x100000000 - 973932308  # from Kafka's own UtilsTest
    for message in read[0]:
        assert message.partition() == (murmur2(message.key()) & 0x7FFFFFFF) % PARTITIONS


def test_an_unknown_schema_id_is_not_found_in_the_registrys_own_words(read: Read) -> None:
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    with pytest.raises(SchemaRegistryError) as raised:
        SchemaRegistryClient({"url": read[2]}).get_schema(2**31 - 1)
    assert (raised.value.http_status_code, raised.value.error_code) == (404, 40403)
