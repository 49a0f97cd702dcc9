"""Values of `[kafka]` that no client can be made with: said before one is, or in the library's words, never a bug."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from dovetail_relay.config import Settings, load
from dovetail_relay.errors import ConfigInvalid, Misconfigured
from dovetail_relay.observe.topics import Topics
from dovetail_relay.publish.at_least_once import AtLeastOncePublisher
from dovetail_relay.publish.checkpoint import CheckpointReader
from dovetail_relay.publish.kafka import KafkaPublisher
from dovetail_relay.publish.refusals import bad_property

HERE = {
    "DOVETAIL_POSTGRES__DSN": "host=localhost dbname=shop user=relay",
    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
}
# Named like no property that is known here: only the library itself can refuse it.
UNKNOWN = {"DOVETAIL_KAFKA__NONSENSE_PROPERTY": "x"}


def given(toml: str, tmp_path: Path) -> Settings:
    file = tmp_path / "dovetail.toml"
    file.write_text(f"[kafka]\n{toml}\n")
    return load(file, HERE)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('"security.protocol" = "sasl_plain"', "'sasl_plain' is none of plaintext, ssl, sasl_plaintext, sasl_ssl"),
        ('"sasl.mechanism" = "FOO"', "'FOO' is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, GSSAPI"),
        ('"sasl.mechanism" = "plain"', "did you mean 'PLAIN'?"),
        ('"compression.type" = "zip"', "'zip' is none of none, gzip, snappy, lz4, zstd"),
        ('"message.max.bytes" = "6MB"', "'6MB' is not a whole number from 1000 to 1000000000, without a unit"),
        ('"message.max.bytes" = 6000000000', "'6000000000' is not a whole number from 1000 to 1000000000"),
        ('"security.protocol" = "ssl"\n"ssl.ca.location" = "/no/ca.pem"', "there is no file '/no/ca.pem'"),
    ],
)
def test_a_value_that_the_library_would_refuse_is_told_with_what_is_allowed(
    toml: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        given(toml, tmp_path)
    (problem,) = caught.value.problems
    assert said in problem
    assert problem.split(":")[0] in {f"kafka.{line.split(chr(34))[1]}" for line in toml.splitlines()}


def test_what_is_allowed_passes_in_any_case_and_where_nobody_opens_the_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    given(f'"security.protocol" = "SASL_SSL"\n"ssl.ca.location" = "{tmp_path}/ca.pem"', tmp_path)
    given('"ssl.ca.location" = "/no/ca.pem"\n"compression.type" = "ZSTD"\n"message.max.bytes" = 6000000', tmp_path)
    given('"security.protocol" = "ssl"\n"ssl.ca.location" = "probe"', tmp_path)


def test_every_client_says_which_property_the_library_refuses() -> None:
    settings = load(None, HERE | UNKNOWN)
    config = {"bootstrap.servers": "localhost:9092", "nonsense.property": "x", "log_level": 0}
    names = {"transactional_id": "t", "checkpoint_topic": "c", "relay": "r"}
    quiet = {"on_step": lambda _step: None, "on_client_error": lambda _name: None}
    for make in (
        lambda: CheckpointReader(config, "c", b"r"),
        lambda: KafkaPublisher(config | {"client.id": "x"}, **names, **quiet).fence(1.0),
        lambda: AtLeastOncePublisher(config | {"client.id": "x"}, **names, **quiet).send([]),
        lambda: Topics(settings),
    ):
        with pytest.raises(Misconfigured, match=r"No such configuration property: .nonsense.property.") as caught:
            make()
        assert "report it" not in caught.value.line()
        assert "next: correct [kafka]" in caught.value.line()


def test_the_librarys_words_never_quote_a_secret() -> None:
    text = 'Invalid value "hunter2" for configuration property "sasl.password"'
    said = bad_property(KafkaException(KafkaError(KafkaError._INVALID_ARG, text)))
    assert "hunter2" not in said.line()
    assert "sasl.password" in said.line()
