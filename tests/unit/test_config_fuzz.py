"""Whatever stands in the file, the environment or a flag: settings come out, or ConfigInvalid, and nothing else."""

import tempfile
from pathlib import Path

import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail_relay.config import Settings, conninfo, effective, kafka_properties, load
from dovetail_relay.errors import ConfigInvalid
from dovetail_relay.settings.gather import SECTIONS

KEYS = (
    "dsn", "dsn_file", "password_file", "insecure", "bootstrap_servers", "allowed_topics", "security.protocol", "acks",
    "sasl.password", "sasl.password_file", "socket.timeout.ms", "table", "publication", "topic", "columns", "messages",
    "aggregatetype", "on_stuck", "partitions", "mode", "batch_rows", "batch_bytes", "linger_ms", "name", "slot",
    "http_port", "lease_seconds", "level", "format", "url", "order",
)  # fmt: skip
TEXTS = (
    "host=localhost dbname=x",
    "localhost:9092",
    "kafka:1",
    "[::1]:9",
    "4MB",
    "10 kb",
    "{aggregatetype}",
    "order",
    "*",
)

scalars = (
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(TEXTS)
    | st.datetimes()
)
keys = st.sampled_from(KEYS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
sections = st.sampled_from(SECTIONS) | keys
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)
documents = st.dictionaries(sections, st.dictionaries(keys, values, max_size=6) | values, max_size=5)
printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.sampled_from(
    TEXTS
)
variables = st.dictionaries(
    st.builds(lambda section, key: f"DOVETAIL_{section}__{key}".upper(), sections, keys), printable, max_size=5
)
flags = st.dictionaries(
    st.builds(lambda section, key: f"{section}.{key}", sections, keys) | keys, printable, max_size=3
)


def use(path: Path | None, environ: dict[str, str], overrides: dict[str, str]) -> None:
    try:
        found = load(path, environ, overrides, needs=())
    except ConfigInvalid as error:
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)
        return
    assert isinstance(found, Settings)
    assert found.allowed_topics
    assert not any(found.topic_allowed(topic) for topic in (found.checkpoint_topic, "__consumer_offsets"))
    assert all(found.topic_allowed(topic) for topic in found.topics())
    effective(found)
    kafka_properties(found)
    if found.postgres.dsn is not None:
        conninfo(found)


@given(documents, variables, flags)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_document_gives_settings_or_a_named_error(document: dict, environ: dict, overrides: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dovetail.toml"
        file.write_text(tomli_w.dumps(document), encoding="utf-8")
        use(file, environ, overrides)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_settings_or_a_named_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dovetail.toml"
        file.write_bytes(content)
        use(file, {}, {})
