"""The topics that `dovetail init` makes and accepts, on a real cluster."""

import secrets

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from dovetail_local.stack import Stack
from dovetail_relay.config import Settings, load
from dovetail_relay.errors import Misconfigured, PartitionsChanged, ServerUnreachable
from dovetail_relay.setup.problems import TopicRefused
from dovetail_relay.setup.steps import Step
from dovetail_relay.setup.topics import Cluster, ensure_topics


def settings_of(stack: Stack, **overrides: str) -> Settings:
    environ = stack.endpoints().environment() | {"DOVETAIL_RELAY__NAME": f"k{secrets.token_hex(6)}"}
    return load(None, environ, {path.replace("__", "."): value for path, value in overrides.items()})


def ensure(
    settings: Settings, recorded: dict[str, int] | None = None, *, change: bool = True
) -> tuple[dict[str, int], list[Step]]:
    steps: list[Step] = []
    return ensure_topics(Cluster(settings), recorded or {}, steps.append, change=change), steps


@pytest.fixture
def admin(stack: Stack) -> AdminClient:
    return AdminClient({"bootstrap.servers": stack.endpoints().bootstrap_servers})


def config_of(admin: AdminClient, topic: str) -> dict[str, str]:
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in future.result().items()}


def make(admin: AdminClient, topic: str, partitions: int) -> None:
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result()


def test_the_checkpoint_topic_is_compacted_soon_and_has_one_partition(stack: Stack, admin: AdminClient) -> None:
    settings = settings_of(stack)
    counts, steps = ensure(settings)

    found = config_of(admin, settings.checkpoint_topic)
    assert counts == {settings.checkpoint_topic: 1}
    assert [step.state for step in steps] == ["done"]
    assert found["cleanup.policy"] == "compact"
    assert found["unclean.leader.election.enable"] == "false"
    assert int(found["segment.ms"]) <= 3_600_000
    assert int(found["segment.bytes"]) <= 64 << 20


def test_a_second_time_everything_is_already_there(stack: Stack) -> None:
    settings = settings_of(stack)
    first, _ = ensure(settings)
    second, steps = ensure(settings, first)
    assert second == first
    assert {step.state for step in steps} == {"there"}


def test_a_routes_topic_gets_the_configured_partitions_and_keeps_its_events(stack: Stack, admin: AdminClient) -> None:
    topic = f"orders-{secrets.token_hex(6)}"
    counts, _ = ensure(settings_of(stack, routes__order__topic=topic, routes__order__partitions="4"))
    assert counts[topic] == 4
    assert config_of(admin, topic)["cleanup.policy"] == "delete"


def test_a_topic_that_exists_is_accepted_with_the_partitions_it_has(stack: Stack, admin: AdminClient) -> None:
    topic = f"orders-{secrets.token_hex(6)}"
    make(admin, topic, 2)
    counts, steps = ensure(settings_of(stack, routes__order__topic=topic))
    assert counts[topic] == 2
    assert [step.detail for step in steps if topic in step.what] == ["2 partitions; 6 configured"]


def test_a_topic_that_grew_since_it_was_recorded_is_refused(stack: Stack, admin: AdminClient) -> None:
    topic = f"orders-{secrets.token_hex(6)}"
    settings = settings_of(stack, routes__order__topic=topic, routes__order__partitions="2")
    counts, _ = ensure(settings)
    for future in admin.create_partitions([NewPartitions(topic, 3)]).values():
        future.result()
    with pytest.raises(PartitionsChanged, match="has 3 partitions, 2 when it was recorded"):
        ensure(settings, counts)


def test_a_checkpoint_topic_with_two_partitions_is_refused(stack: Stack, admin: AdminClient) -> None:
    settings = settings_of(stack)
    make(admin, settings.checkpoint_topic, 2)
    with pytest.raises(TopicRefused, match="needs a topic of its own with one"):
        ensure(settings)


def test_a_check_makes_nothing(stack: Stack, admin: AdminClient) -> None:
    settings = settings_of(stack)
    counts, steps = ensure(settings, change=False)
    assert counts == {}
    assert [step.state for step in steps] == ["missing"]
    assert settings.checkpoint_topic not in admin.list_topics(timeout=10).topics


def test_two_routes_into_one_topic_make_it_once(stack: Stack) -> None:
    topic = f"all-{secrets.token_hex(6)}"
    routes = {
        "routes__a__topic": topic,
        "routes__b__topic": topic,
        "routes__a__partitions": "3",
        "routes__b__partitions": "3",
    }
    counts, steps = ensure(settings_of(stack, **routes))
    assert counts[topic] == 3
    assert len(steps) == 2


def test_more_replicas_than_brokers_are_refused_by_name(stack: Stack) -> None:
    topic = f"orders-{secrets.token_hex(6)}"
    settings = settings_of(stack, routes__order__topic=topic, routes__order__replication_factor="9")
    with pytest.raises(TopicRefused, match=topic):
        ensure(settings)


def test_a_cluster_that_does_not_answer_is_unreachable_and_says_where() -> None:
    environ = {"DOVETAIL_POSTGRES__DSN": "dbname=x", "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1.*onnect"):
        Cluster(load(None, environ)).metadata(timeout_seconds=2)


def test_a_property_that_librdkafka_does_not_know_is_named_before_anything_else(stack: Stack) -> None:
    environ = stack.endpoints().environment() | {"DOVETAIL_KAFKA__QUANTUM_FOAM": "1"}
    with pytest.raises(Misconfigured, match=r'No such configuration property: "quantum\.foam"'):
        Cluster(load(None, environ))


def test_the_settings_of_the_relays_producer_are_accepted_by_librdkafka(stack: Stack) -> None:
    from dovetail_relay.config import kafka_properties

    toml = {"DOVETAIL_KAFKA__TRANSACTION_TIMEOUT_MS": "60000", "DOVETAIL_KAFKA__MESSAGE_TIMEOUT_MS": "60000"}
    settings = load(None, stack.endpoints().environment() | toml)
    Producer(kafka_properties(settings) | {"transactional.id": f"dovetail.test.{secrets.token_hex(4)}"})
