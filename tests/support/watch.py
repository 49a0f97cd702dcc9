"""What the outside sees while a test runs: a live reader, and samples of the slot and of the relays' ports."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
from collections.abc import Callable
from typing import Self

import psycopg
from confluent_kafka import Consumer, TopicPartition

from support.checker import Sample, Scrape, Written
from support.relay import RelayProcess
from support.world import PARTITIONS, World

SAMPLE_SECONDS = 0.1
SCRAPE_SECONDS = 0.5


class _Thread:
    """A loop on a thread of its own, for the time of a `with` block; what it raises is raised by the block's end."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._raised: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(60)
        for error in self._raised:
            raise error

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._raised.append(error)

    def _loop(self) -> None:
        raise NotImplementedError


class LiveReader(_Thread):
    """A `read_committed` reader that reads along through all faults: it must see what a later one sees, no more."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._consumer = Consumer(
            {
                "bootstrap.servers": world.endpoints.bootstrap_servers,
                "group.id": "live",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(world.topic, partition, 0) for partition in range(PARTITIONS)])
        # Ids per partition, as they came.
        self.seen: list[list[str]] = [[] for _ in range(PARTITIONS)]

    def _loop(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1000, timeout=0.05):
                if message.error() is None:
                    self.seen[message.partition()].append(dict(message.headers())["id"].decode())
        self._consumer.close()


class SlotWatch(_Thread):
    """Samples of the slot; none while PostgreSQL is away."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.first = world.confirmed_flush()
        self.samples: list[Sample] = []

    def _loop(self) -> None:
        connection: psycopg.Connection | None = None
        while not self._stopping.wait(SAMPLE_SECONDS):
            try:
                if connection is None:
                    connection = psycopg.connect(self._world.endpoints.owner_dsn, autocommit=True, connect_timeout=2)
                row = connection.execute(
                    "SELECT (confirmed_flush_lsn - '0/0')::bigint, (pg_current_wal_insert_lsn() - restart_lsn)::bigint"
                    " FROM pg_replication_slots WHERE slot_name = %s",
                    (self._world.settings().relay.slot,),
                ).fetchone()
                assert row is not None, "the slot is gone"
                self.samples.append(Sample(time.time(), *row))
            except psycopg.OperationalError:
                connection = None
        if connection is not None:
            connection.close()


class PortWatch(_Thread):
    """Looks at /readyz, /metrics and the log of each relay that answers."""

    def __init__(self, relays: Callable[[], list[RelayProcess]]) -> None:
        super().__init__()
        self._relays = relays
        self.scrapes: list[Scrape] = []

    def _loop(self) -> None:
        while not self._stopping.wait(SCRAPE_SECONDS):
            for relay in self._relays():
                # One that is frozen, starting or gone has nothing to say.
                with contextlib.suppress(urllib.error.URLError, OSError, AssertionError):
                    self.scrapes.append(look(relay))


def look(relay: RelayProcess) -> Scrape:
    status, body = relay.get("/readyz")
    said = json.loads(body)
    named = {labels.split('"')[1] for labels, is_so in relay.metrics("dovetail_relay_halted").items() if is_so}
    logged = {(str(line["halt"]), str(line["next"])) for line in relay.events() if line.get("event") == "relay_halted"}
    return Scrape(status, said.get("reason", ""), said.get("next", ""), frozenset(named), frozenset(logged))


def checkpoints(world: World) -> list[Written]:
    """Every committed checkpoint of the world's relay, oldest first."""
    consumer = Consumer(
        {
            "bootstrap.servers": world.endpoints.bootstrap_servers,
            "group.id": "checkpoints",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(world.settings().checkpoint_topic, 0, 0)])
    found: list[Written] = []
    try:
        while True:
            for message in consumer.consume(5000, timeout=0.05):
                if message.error() is not None:
                    return found
                high, low = json.loads(message.value())["end_lsn"].split("/")
                found.append(Written(message.timestamp()[1] / 1000, int(high, 16) << 32 | int(low, 16)))
    finally:
        consumer.close()
