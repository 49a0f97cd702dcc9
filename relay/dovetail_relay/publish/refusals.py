"""What the client raises and what a delivery reports, and whether another producer would change it."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from dovetail_relay.config import scrubbed
from dovetail_relay.errors import Misconfigured
from dovetail_relay.publish.port import Refusal
from dovetail_relay.settings.kafka_rules import is_secret

_QUOTED: Final = re.compile(r'Invalid value ".*" for configuration property "(?P<name>[^"]*)"')

# Refused for what the record is, or for where it goes: a new producer cures none of them.
REFUSED: Final = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._INVALID_ARG,
    )
)
# It is the topic: every record for it is refused.
_TOPIC_REFUSED: Final = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_EXCEPTION,
    )
)

_ASK_SECONDS: Final = 2.0

Failure = tuple[str, KafkaError, int | None]


def bad_property(error: KafkaException) -> Misconfigured:
    """What [kafka] says and no client can be made of, in the library's words: they name the property, and the range.

    For every place that constructs a client: unnamed it would look like a mistake of ours.
    """
    found = error.args[0] if error.args else error
    text = scrubbed(found.str() if isinstance(found, KafkaError) else found)
    for made in ("producer", "consumer"):
        text = text.removeprefix(f"Failed to create {made}: ")
    quoted = _QUOTED.search(text)
    if quoted is not None and is_secret(quoted["name"]):
        text = f"invalid value for configuration property {quoted['name']}"
    return Misconfigured(f"[kafka]: {text}", remedy="correct [kafka] in the configuration, then dovetail doctor")


def refusal(topic: str, error: KafkaError, index: int | None) -> Refusal:
    """What a refused record says of itself, or of its topic."""
    return Refusal(topic, error.name(), index, whole_topic=error.code() in _TOPIC_REFUSED)


def refusals_in(failures: list[Failure]) -> tuple[Refusal, ...]:
    """Those of the failed deliveries that a new producer would not cure."""
    return tuple(refusal(topic, error, index) for topic, error, index in failures if error.code() in REFUSED)


def gone(producer: Producer, failures: list[Failure]) -> tuple[Refusal, ...]:
    """Topics of records that timed out, and that are not there any more.

    A client that has once known a topic waits for its leader until the record times out, and so does the next one: its
    report looks like a Kafka that is away.
    """
    found = []
    for topic in {topic for topic, error, _ in failures if error.code() == KafkaError._MSG_TIMED_OUT}:
        try:
            error = producer.list_topics(topic, timeout=_ASK_SECONDS).topics[topic].error
        except KafkaException:
            return ()  # Kafka is away
        if error is not None and error.code() in _TOPIC_REFUSED:
            found.append(refusal(topic, error, None))
    return tuple(found)


def kafka_error(error: BaseException) -> KafkaError | None:
    """The KafkaError behind what the client raised; None where it was not the client that raised.

    A producer that has become fatal raises KafkaException from poll and flush; where delivery callbacks wait, a
    SystemError with the KafkaException as its cause; and where one of them swallowed it, a SystemError with none
    ("returned NULL without setting an exception"). What happened is unknown then, as after any other failure.
    """
    if isinstance(error, KafkaException):
        return error.args[0]  # type: ignore[no-any-return]
    if isinstance(error, SystemError):
        if isinstance(error.__cause__, KafkaException):
            return error.__cause__.args[0]  # type: ignore[no-any-return]
        return KafkaError(KafkaError._FAIL, str(error))
    return None
