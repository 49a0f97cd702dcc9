"""What the Kafka client raises, and what it means."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from dovetail_relay.publish.refusals import kafka_error


def code(error: BaseException) -> int | None:
    found = kafka_error(error)
    return None if found is None else found.code()


def test_the_error_of_an_exception_is_its_own() -> None:
    assert code(KafkaException(KafkaError(KafkaError._FENCED))) == KafkaError._FENCED


def test_the_error_of_a_system_error_is_its_cause() -> None:
    error = SystemError("<method 'flush'> returned a result with an exception set")
    error.__cause__ = KafkaException(KafkaError(KafkaError._FENCED))
    assert code(error) == KafkaError._FENCED


def test_a_system_error_without_a_cause_is_a_failure_of_the_client() -> None:
    """flush on a fenced producer with a callback waiting has raised this, on a busy machine."""
    assert code(SystemError("<method 'flush'> returned NULL without setting an exception")) == KafkaError._FAIL


def test_what_the_client_did_not_raise_has_no_kafka_error() -> None:
    assert code(ValueError("ours")) is None
