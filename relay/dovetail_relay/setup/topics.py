"""The checkpoint topic and the routes' topics: what they should be, what is there, making what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from dovetail_relay.config import Settings, kafka_properties, scrubbed
from dovetail_relay.errors import Misconfigured, PartitionsChanged, ServerUnreachable
from dovetail_relay.setup.problems import TopicRefused
from dovetail_relay.setup.steps import Step

# A first connection through DNS, TLS and SASL takes a second or two; a dead broker should not take longer than this.
METADATA_TIMEOUT_SECONDS = 10.0

# Three copies survive one broker that is down and one that is lost.
REPLICATION_TARGET = 3

_CHECKPOINT_CONFIG = {
    "cleanup.policy": "compact",
    # Only closed segments are compacted. Small and short-lived ones keep what a starting relay has to read small.
    "segment.bytes": str(16 << 20),
    "segment.ms": str(10 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(60 * 60 * 1000),
    "delete.retention.ms": str(24 * 60 * 60 * 1000),
    # A checkpoint that a lagging broker never saw must not vanish with an election.
    "unclean.leader.election.enable": "false",
}
_EVENTS_CONFIG = {"unclean.leader.election.enable": "false"}

_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }
)
_UNREACHABLE = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be made."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(slots=True)
class Cluster:
    """An admin client that remembers what librdkafka complained about: its own errors say only "transport failure".

    The client must not know this object. In a cycle it would be the garbage collector's to destroy, in whichever thread
    that runs: librdkafka ends the process where the thread is one of its own.
    """

    settings: Settings
    complaints: list[str] = field(default_factory=list)
    client: AdminClient = field(init=False)

    def __post_init__(self) -> None:
        properties: dict[str, Any] = dict(kafka_properties(self.settings))
        try:
            self.client = AdminClient(properties | {"error_cb": _keeper(self.complaints), "log_level": 0})
        except KafkaException as error:
            raise Misconfigured(f"kafka: {said(error)}", remedy="correct [kafka] in the configuration") from error

    def metadata(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> Any:
        """Brokers and topics as the cluster tells them. Raises ServerUnreachable when it does not answer."""
        try:
            return self.client.list_topics(timeout=timeout_seconds)
        except KafkaException as error:
            raise self.named(error) from error

    def named(self, error: KafkaException) -> Exception:
        """What an error of Kafka means for the one who has to do something about it."""
        code = _code(error)
        self.client.poll(0)  # lets librdkafka hand over its complaints
        reasons = "; ".join(dict.fromkeys(self.complaints[-3:]))
        text = said(error) + (f": {reasons}" if reasons else "")
        if code in _FORBIDDEN:
            return TopicRefused(f"the Kafka principal lacks a right: {text}")
        if "authentication" in text.lower() or code == KafkaError._AUTHENTICATION:
            return Misconfigured(
                f"Kafka refused the login: {text}", remedy="check the sasl.* and ssl.* keys of [kafka]"
            )
        if code in _UNREACHABLE:
            return ServerUnreachable(f"Kafka ({self.settings.kafka.bootstrap_servers}): {text}")
        return TopicRefused(f"Kafka: {text}", remedy="dovetail doctor")

    def compacts(self, topics: Iterable[str]) -> dict[str, bool | None]:
        """Whether a topic keeps the newest record of a key only; None: nobody can see."""
        resources = {topic: ConfigResource(ResourceType.TOPIC, topic) for topic in topics}
        if not resources:
            return {}
        futures = self.client.describe_configs(list(resources.values()), request_timeout=METADATA_TIMEOUT_SECONDS)
        found: dict[str, bool | None] = {}
        for topic, resource in resources.items():
            try:
                found[topic] = "compact" in (futures[resource].result()["cleanup.policy"].value or "")
            except (KafkaException, KeyError):
                found[topic] = None
        return found


def _keeper(complaints: list[str]) -> Callable[[KafkaError], None]:
    return lambda error: complaints.append(scrubbed(error.str()))


def said(error: KafkaException) -> str:
    """Kafka's own words in one line."""
    found = error.args[0] if error.args else error
    return scrubbed(found.str() if isinstance(found, KafkaError) else found)


def _code(error: KafkaException) -> int | None:
    found = error.args[0] if error.args else None
    return found.code() if isinstance(found, KafkaError) else None


def wanted_topics(settings: Settings, brokers: int) -> list[Topic]:
    """The checkpoint topic first, then the routes' topics by name; copied three times where the cluster can."""
    copies = min(REPLICATION_TARGET, max(brokers, 1))
    topics = {
        settings.checkpoint_topic: Topic(
            settings.checkpoint_topic, 1, copies, {**_CHECKPOINT_CONFIG, "min.insync.replicas": _in_sync(copies)}
        )
    }
    for route in sorted(settings.routes.values(), key=lambda route: route.topic):
        own = route.replication_factor or copies
        asked = Topic(route.topic, route.partitions, own, {**_EVENTS_CONFIG, "min.insync.replicas": _in_sync(own)})
        topics.setdefault(route.topic, asked)
    for name in settings.dead_letter_topics():
        kept = {**_EVENTS_CONFIG, "min.insync.replicas": _in_sync(copies)}
        topics.setdefault(name, Topic(name, 1, copies, kept))
    return list(topics.values())


def _in_sync(copies: int) -> str:
    # One less than all: a write survives the loss of a broker, and goes on while one is down.
    return str(max(1, copies - 1))


def partition_counts(metadata: Any) -> dict[str, int]:
    """topic -> partitions, for the topics that are there."""
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def ensure_topics(
    cluster: Cluster, recorded: Mapping[str, int], report: Callable[[Step], None], *, change: bool
) -> dict[str, int]:
    """Make what is missing, accept what fits; the partition counts of all wanted topics that are there.

    `recorded` are the counts that the relay row has. Raises PartitionsChanged where a topic has another count than
    recorded, TopicRefused where a topic cannot be made or used.
    """
    metadata = cluster.metadata()
    there = partition_counts(metadata)
    wanted = wanted_topics(cluster.settings, len(metadata.brokers))
    missing = [topic for topic in wanted if topic.name not in there]
    checkpoint = cluster.settings.checkpoint_topic
    for topic in wanted:
        if topic.name in there:
            report(_accept(topic, there[topic.name], recorded, checkpoint))
    late: list[Topic] = []
    for topic in missing:
        if change and not _create(cluster, topic):
            late.append(topic)
            continue
        detail = f"{_many(topic.partitions, 'partition')}, {_many(topic.replication_factor, 'replica')}"
        report(Step(f"topic {topic.name}", "done" if change else "missing", detail))
    if change and missing:
        there = _wait_until_listed(cluster, {topic.name for topic in missing})
    for topic in late:
        report(_accept(topic, there[topic.name], recorded, checkpoint))
    return {topic.name: there[topic.name] for topic in wanted if topic.name in there}


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _accept(topic: Topic, count: int, recorded: Mapping[str, int], checkpoint: str) -> Step:
    if topic.name == checkpoint and count != 1:
        raise TopicRefused(
            f"topic {topic.name!r} has {count} partitions; the checkpoint needs a topic of its own with one",
            remedy=f"delete the topic {topic.name}, or set relay.name",
        )
    before = recorded.get(topic.name)
    if before is not None and before != count:
        raise PartitionsChanged(f"topic {topic.name!r} has {count} partitions, {before} when it was recorded")
    asked = "" if count == topic.partitions else f"; {topic.partitions} configured"
    return Step(f"topic {topic.name}", "there", _many(count, "partition") + asked)


def _create(cluster: Cluster, topic: Topic) -> bool:
    """False when it is there already: a neighbour was quicker, or the listing lagged behind."""
    request = NewTopic(topic.name, topic.partitions, topic.replication_factor, config=dict(topic.config))
    future = cluster.client.create_topics([request], request_timeout=METADATA_TIMEOUT_SECONDS)[topic.name]
    try:
        future.result()
    except KafkaException as error:
        if _code(error) == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        named = cluster.named(error)
        if isinstance(named, TopicRefused):
            raise TopicRefused(f"topic {topic.name!r}: {said(error)}") from error
        raise named from error
    return True


def _wait_until_listed(cluster: Cluster, names: set[str]) -> dict[str, int]:
    """A new topic is known to all brokers a moment after it was made."""
    deadline = time.monotonic() + METADATA_TIMEOUT_SECONDS
    while True:
        there = partition_counts(cluster.metadata())
        if names <= there.keys():
            return there
        if time.monotonic() > deadline:
            raise ServerUnreachable(f"Kafka does not list {', '.join(sorted(names - there.keys()))} after making it")
        time.sleep(0.1)
