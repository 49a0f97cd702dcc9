"""What a service takes from the environment, and what it says where nothing is there."""

import os

import pytest

from dovetail import environment, errors
from dovetail.psycopg import connect


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("DOVETAIL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("asked", [environment.database, environment.kafka, connect])
def test_what_is_missing_is_told_with_its_variable_and_what_to_type(asked):
    with pytest.raises(errors.NotConfigured, match=r'^DOVETAIL_\w+ is not set; .*eval "\$\(dovetail local env\)"$'):
        asked()


def test_every_kafka_variable_is_the_property_that_the_relay_takes_it_for(monkeypatch, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    for name, value in {
        "BOOTSTRAP_SERVERS": "kafka:9093",
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_PASSWORD_FILE": str(secret),
        "INSECURE": "true",
        "ALLOWED_TOPICS": "orders",
    }.items():
        monkeypatch.setenv(f"DOVETAIL_KAFKA__{name}", value)
    assert environment.kafka() == {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "sasl.password": "s3cret",
    }


def test_a_secret_file_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DOVETAIL_KAFKA__BOOTSTRAP_SERVERS", "kafka:9093")
    monkeypatch.setenv("DOVETAIL_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(errors.NotConfigured, match=r"SASL_PASSWORD_FILE: .*nowhere cannot be read: No such file"):
        environment.kafka()


def test_topics_follow_from_the_aggregates_each_once(monkeypatch):
    assert environment.topics(["order", "stock", "order"]) == ["outbox.event.order", "outbox.event.stock"]
    monkeypatch.setenv("DOVETAIL_OUTBOX__TOPIC", "shop.{aggregatetype}.events")
    monkeypatch.setenv("DOVETAIL_ROUTES__ORDER_LINE__TOPIC", "lines")
    assert environment.topics(["order", "order-line"]) == ["lines", "shop.order.events"]
