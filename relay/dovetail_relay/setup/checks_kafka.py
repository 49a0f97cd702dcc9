"""Kafka: reachable, its topics as they should be, and a producer that may open transactions."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from dovetail_relay.config import Settings, kafka_properties
from dovetail_relay.settings.kafka_rules import TRANSACTION_TIMEOUT_MS
from dovetail_relay.setup.findings import Finding, guarded, judge, ok
from dovetail_relay.setup.topics import METADATA_TIMEOUT_SECONDS, Cluster, Topic, partition_counts, said, wanted_topics

# The SDK's payload limit (900,000 bytes) with frame, key and headers.
_LARGEST_RECORD_BYTES = 1_000_000

_NO_RIGHT = frozenset({KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


@dataclass(slots=True)
class Broker:
    """What the checks look at: the metadata and the settings that the cluster lets us see."""

    cluster: Cluster
    metadata: Any
    # {"broker": {…}, "<topic>": {…}}; absent where the principal may not describe
    configs: dict[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many brokers there are."""
        return len(self.metadata.brokers)


def kafka_checks(settings: Settings, recorded: Mapping[str, int]) -> Iterator[Finding]:
    """All of them; the first one that finds no cluster is the only one."""
    cluster = Cluster(settings)
    broker = Broker(cluster, cluster.metadata())
    yield from brokers(broker)
    wanted = wanted_topics(settings, broker.count)
    yield from guarded("kafka.describe", partial(_describe, broker, [topic.name for topic in wanted]))
    yield from guarded("kafka.versions", partial(versions, broker))
    for topic in wanted:
        yield from guarded(f"kafka.topic.{topic.name}", partial(check_topic, broker, topic, recorded))
    yield from guarded("kafka.transactions", partial(transactions, settings))


def brokers(broker: Broker) -> Iterator[Finding]:
    """How many there are: one cannot lose itself."""
    yield judge(
        "kafka.brokers",
        good=broker.count >= 3,
        found=f"{broker.count} at {broker.cluster.settings.kafka.bootstrap_servers}",
        wanted="three or more: with fewer the loss of one stops the relay or loses acknowledged events",
        remedy="add brokers (one is fine for development)",
        otherwise="warn",
    )


def _describe(broker: Broker, topics: list[str]) -> Iterator[Finding]:
    """Fill `broker.configs`; a right that is missing is told once."""
    known = partition_counts(broker.metadata)
    resources = {f"topic {name}": ConfigResource(ResourceType.TOPIC, name) for name in topics if name in known}
    resources["broker"] = ConfigResource(ResourceType.BROKER, str(min(broker.metadata.brokers)))
    futures = broker.cluster.client.describe_configs(list(resources.values()), request_timeout=METADATA_TIMEOUT_SECONDS)
    for name, resource in resources.items():
        try:
            entries = futures[resource].result()
        except KafkaException as error:
            yield Finding(
                "kafka.describe", "warn", f"the settings of {name} cannot be read: {said(error)}",
                "DescribeConfigs allowed",
                "dovetail init --print-kafka",
            )  # fmt: skip
        else:
            key = name.removeprefix("topic ")
            broker.configs[key] = {entry.name: entry.value or "" for entry in entries.values()}


def versions(broker: Broker) -> Iterator[Finding]:
    """The client library's version, and the broker's as far as it tells."""
    yield ok("kafka.client", f"librdkafka {confluent_kafka.libversion()[0]}")
    config = broker.configs.get("broker")
    if config is None:
        return
    protocol = config.get("inter.broker.protocol.version")
    yield ok("kafka.version", f"protocol {protocol}" if protocol else "4.0 or newer")
    longest = int(config.get("transaction.max.timeout.ms") or 0)
    asked = int(str(broker.cluster.settings.kafka.properties.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)))
    yield judge(
        "kafka.transaction_timeout",
        good=not longest or longest >= asked,
        found=f"brokers accept up to {longest} ms",
        wanted=f"at least {asked} ms",
        remedy="raise transaction.max.timeout.ms on the brokers, or lower transaction.timeout.ms in [kafka]",
    )


def check_topic(broker: Broker, topic: Topic, recorded: Mapping[str, int]) -> Iterator[Finding]:
    """One topic: there, as many partitions as recorded, copied, and able to take the largest event."""
    check = f"kafka.topic.{topic.name}"
    found = broker.metadata.topics.get(topic.name)
    if found is None or found.error is not None:
        yield Finding(check, "fail", "does not exist, or may not be seen", "made by init", "dovetail init")
        return
    checkpoint = topic.name == broker.cluster.settings.checkpoint_topic
    count = len(found.partitions)
    wanted = 1 if checkpoint else recorded.get(topic.name, count)
    yield judge(
        f"{check}.partitions",
        good=count == wanted,
        found=count,
        wanted=f"{wanted}" + ("" if checkpoint else ", as it was recorded: keys have moved to other partitions"),
        remedy=f"delete the topic {topic.name}, then dovetail init" if checkpoint else "dovetail relay accept",
    )
    yield from _copies(broker, check, found, broker.configs.get(topic.name, {}))
    if topic.name in broker.configs:
        yield from _topic_settings(check, broker.configs[topic.name], checkpoint=checkpoint)


def _copies(broker: Broker, check: str, found: Any, config: Mapping[str, str]) -> Iterator[Finding]:
    copies = min((len(part.replicas) for part in found.partitions.values()), default=0)
    in_sync = min((len(part.isrs) for part in found.partitions.values()), default=0)
    needed = int(config.get("min.insync.replicas") or 1)
    name = check.removeprefix("kafka.topic.")
    alone = broker.count == 1
    yield judge(
        f"{check}.replicas",
        good=copies >= 2 and needed >= 2,
        found=f"{copies} replicas, min.insync.replicas {needed}",
        wanted="at least 2 of each: the loss of one broker must not lose acknowledged events",
        remedy="more brokers"
        if alone
        else f"kafka-reassign-partitions, then kafka-configs --alter --topic {name} --add-config min.insync.replicas=2",
        otherwise="warn" if alone else "fail",
    )  # fmt: skip
    if in_sync < needed:
        yield Finding(
            f"{check}.in_sync", "fail", f"{in_sync} replicas in sync", f"{needed}: nothing can be written",
            "bring the missing brokers back",
        )  # fmt: skip
    if config.get("unclean.leader.election.enable") == "true":
        yield Finding(
            f"{check}.unclean_election", "warn" if alone else "fail", "on",
            "off: an election can throw away acknowledged events",
            f"kafka-configs --alter --topic {name} --add-config unclean.leader.election.enable=false",
        )  # fmt: skip


def _topic_settings(check: str, config: Mapping[str, str], *, checkpoint: bool) -> Iterator[Finding]:
    name, policy = check.removeprefix("kafka.topic."), config.get("cleanup.policy", "")
    alter = f"kafka-configs --alter --topic {name} --add-config"
    yield judge(
        f"{check}.cleanup",
        good=policy == ("compact" if checkpoint else "delete"),
        found=policy,
        wanted="compact: with delete the checkpoint is lost after a quiet week" if checkpoint
        else "delete: replay and recovery refuse compacted topics",
        remedy=f"{alter} cleanup.policy={'compact' if checkpoint else 'delete'}",
        otherwise="fail" if checkpoint else "warn",
    )  # fmt: skip
    largest = int(config.get("max.message.bytes") or 0)
    yield judge(
        f"{check}.max_message_bytes",
        good=largest >= _LARGEST_RECORD_BYTES,
        found=largest,
        wanted=f"at least {_LARGEST_RECORD_BYTES}: the SDK lets larger events through than the topic takes",
        remedy=f"{alter} max.message.bytes=1048588",
        otherwise="warn",
    )


def transactions(settings: Settings) -> Iterator[Finding]:
    """A throw-away transactional id: with the relay's own this check would fence the leader."""
    properties = kafka_properties(settings) | {
        "transactional.id": f"dovetail.doctor.{secrets.token_hex(8)}",
        "transaction.timeout.ms": str(settings.kafka.properties.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)),
        "socket.timeout.ms": str(settings.kafka.properties.get("socket.timeout.ms", 10_000)),
        "message.timeout.ms": str(settings.kafka.properties.get("message.timeout.ms", 14_000)),
        "log_level": "0",
    }
    try:
        Producer(properties).init_transactions(METADATA_TIMEOUT_SECONDS)
    except KafkaException as error:
        code = error.args[0].code() if error.args and isinstance(error.args[0], KafkaError) else None
        refused = code in _NO_RIGHT
        yield Finding(
            "kafka.transactions", "warn" if refused else "fail",
            ("a throw-away id was refused, so this could not be tried: " if refused else "") + said(error),
            "Write and Describe on the transactional ids dovetail.*",
            "dovetail init --print-kafka" if refused else "look at the brokers' transaction.state.log.* settings",
        )  # fmt: skip
    else:
        yield ok("kafka.transactions", "a producer can open transactions")
