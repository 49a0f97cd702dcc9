"""Confluent's own client and deserializer, unmodified, pointed at the relay's port."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from dovetail_relay.health import HealthServer, HealthState
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.registry.database import SchemaRow, VersionRow
from dovetail_relay.registry.http import registry_app
from dovetail_relay.telemetry import Telemetry
from dovetail_schemas.avro import Codec

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "shop.OrderPlaced",
    "fields": [{"name": "order_id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}
TOPIC = "outbox.event.order"
SUBJECT = "a/strange subject-value"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(ORDER)


@pytest.fixture(scope="module")
def server(codec: Codec) -> Iterator[HealthServer]:
    registry = BuiltinRegistry()
    registry.load(
        [SchemaRow(codec.fingerprint, codec.schema_id, codec.normalised)],
        [VersionRow(f"{TOPIC}-value", 1, codec.fingerprint), VersionRow(SUBJECT, 1, codec.fingerprint)],
    )
    running = HealthServer("127.0.0.1", 0, HealthState(), registry_app(registry), Telemetry())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server: HealthServer) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": f"http://127.0.0.1:{server.port}", "max.retries": 0}) as made:
        yield made


def framed(codec: Codec, **fields: object) -> bytes:
    return b"\0" + codec.schema_id.to_bytes(4, "big") + codec.encode(fields)


def test_its_deserializer_reads_what_the_relay_frames(client: SchemaRegistryClient, codec: Codec) -> None:
    deserialize = AvroDeserializer(client)
    context = SerializationContext(TOPIC, MessageField.VALUE)
    value = framed(codec, order_id=42, note="hi")
    assert deserialize(value, context) == {"order_id": 42, "note": "hi"}


def test_its_deserializer_reads_with_the_newest_version_of_the_subject(
    client: SchemaRegistryClient, codec: Codec
) -> None:
    deserialize = AvroDeserializer(client, conf={"use.latest.version": True})
    context = SerializationContext(TOPIC, MessageField.VALUE)
    assert deserialize(framed(codec, order_id=42, note=None), context) == {"order_id": 42, "note": None}


def test_its_client_reads_subjects_versions_and_settings(client: SchemaRegistryClient, codec: Codec) -> None:
    assert client.get_subjects() == [SUBJECT, f"{TOPIC}-value"]
    assert client.get_versions(SUBJECT) == [1]
    latest = client.get_latest_version(SUBJECT)
    assert (latest.version, latest.schema_id) == (1, codec.schema_id)
    assert latest.schema.schema_str == codec.normalised
    assert client.get_version(f"{TOPIC}-value", 1).schema_id == codec.schema_id
    assert client.get_schema(codec.schema_id).schema_type == "AVRO"
    assert client.get_compatibility() == "BACKWARD"


def test_its_client_is_told_what_is_missing_by_confluents_codes(client: SchemaRegistryClient) -> None:
    for call, code in (
        (lambda: client.get_schema(1), 40403),
        (lambda: client.get_latest_version("other"), 40401),
        (lambda: client.get_version(SUBJECT, 9), 40402),
    ):
        with pytest.raises(SchemaRegistryError) as caught:
            call()
        assert caught.value.error_code == code


def test_its_client_cannot_write(client: SchemaRegistryClient) -> None:
    with pytest.raises(SchemaRegistryError) as caught:
        client.register_schema(SUBJECT, Schema('"int"', "AVRO"))
    assert caught.value.http_status_code == 405
    with pytest.raises(SchemaRegistryError) as caught:
        client.set_compatibility(level="NONE")
    assert caught.value.http_status_code == 405


def test_nobody_listens_on_another_address(server: HealthServer) -> None:
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.2", server.port))
