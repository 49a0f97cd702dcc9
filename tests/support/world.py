"""A small world on the real servers: one database, one topic, one relay, and readers that share no code with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fastavro
import psycopg
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack
from dovetail_relay.config import Settings, load
from dovetail_relay.setup.install import Plan, install
from support.checker import Books, Seen, check
from support.link import Address, Link
from support.relay import RelayProcess
from support.servers import fresh_database
from support.writers import NUMBERED_SCHEMA, PLAIN, Ways, Writers, prepare

PARTITIONS = 3


class World:
    """Where one test lives. `environ` is what its processes get."""

    def __init__(self, stack: Stack, endpoints: Endpoints, **environ: str) -> None:
        self.stack = stack
        self.endpoints = endpoints
        self.name = "t" + secrets.token_hex(4)
        self.aggregate = f"order-{self.name}"
        self.topic = f"outbox.event.{self.aggregate}"
        self.environ = {
            **endpoints.environment(),
            "DOVETAIL_RELAY__NAME": self.name,
            "DOVETAIL_RELAY__HTTP_PORT": "0",
            f"DOVETAIL_ROUTES__{self.name.upper()}__AGGREGATETYPE": self.aggregate,
            f"DOVETAIL_ROUTES__{self.name.upper()}__PARTITIONS": str(PARTITIONS),
            **environ,
        }
        self.relays: list[RelayProcess] = []

    @property
    def postgres(self) -> Address:
        """Where the server listens."""
        parts = urlsplit(self.endpoints.relay_dsn)
        return str(parts.hostname), int(parts.port or 0)

    def postgres_through(self, link: Link) -> dict[str, str]:
        """For a relay that reaches the server by way of a link only."""
        parts = urlsplit(self.endpoints.relay_dsn)
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{link.ports[self.postgres]}"
        return {"DOVETAIL_POSTGRES__DSN": urlunsplit(parts._replace(netloc=netloc))}

    def settings(self, **overrides: str) -> Settings:
        return load(None, self.environ, overrides)

    def install(self) -> None:
        """`dovetail init`, and the writers' tables."""
        self.init()
        prepare(self.endpoints, self.aggregate)

    def init(self) -> None:
        """`dovetail init`, again where something of it is gone."""
        install(self.settings(), Plan(), report=lambda _step: None, on_wait=lambda _blockers: None)

    def forget_the_slot(self) -> None:
        """As if `init` had not come to the slot yet."""
        with psycopg.connect(self.endpoints.superuser_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (self.settings().relay.slot,))
            connection.execute("DELETE FROM dovetail.relay")

    def relay(self, *arguments: str, **environ: str) -> RelayProcess:
        """A relay process of this world; ended with it."""
        started = RelayProcess({**self.environ, **environ}, *arguments)
        self.relays.append(started)
        return started

    def writers(
        self, count: int = 2, *, keys: int = 8, seed: int = 1, ways: Ways = PLAIN, pause: float = 0.004
    ) -> Writers:
        return Writers(
            self.endpoints.app_dsn, self.aggregate, count=count, keys=keys, seed=seed, ways=ways, pause=pause
        )

    def table(self) -> list[Seen]:
        """What was committed, straight from the table."""
        with psycopg.connect(self.endpoints.owner_dsn) as connection:
            rows = connection.execute("SELECT id, aggregateid, payload FROM dovetail.outbox ORDER BY seq").fetchall()
        return [Seen(str(row[0]), row[1], number(row[2])) for row in rows]

    def read_topic(self, topic: str | None = None) -> list[Seen]:
        """What a `read_committed` reader finds from beginning to end, partition by partition."""
        return read_topic(self.endpoints.bootstrap_servers, topic or self.topic)

    def positions(self) -> dict[int, list[tuple[int, int, int]]]:
        """Partition → the positions of its events, (epoch, commit LSN, index), in the order of the topic."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for message in read_records(self.endpoints.bootstrap_servers, self.topic):
            epoch, lsn, index = dict(message.headers())["position"].decode().split("/")
            found.setdefault(message.partition(), []).append((int(epoch), int(lsn, 16), int(index)))
        return found

    def confirmed_flush(self) -> int:
        """The slot's confirmed position as a number."""
        with psycopg.connect(self.endpoints.owner_dsn) as connection:
            row = connection.execute(
                "SELECT pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint FROM pg_replication_slots"
                " WHERE database = current_database()"
            ).fetchone()
        return int(row[0]) if row else 0

    def slot_is_active(self) -> bool:
        """Whether somebody streams from the slot."""
        with psycopg.connect(self.endpoints.owner_dsn) as connection:
            row = connection.execute(
                "SELECT active FROM pg_replication_slots WHERE slot_name = %s", (self.settings().relay.slot,)
            ).fetchone()
        return row is not None and bool(row[0])

    def wait_until_published(self, patience: float = 60.0) -> None:
        """Until as many events are in the topic as are committed now; fails once none has come for `patience` s."""
        with psycopg.connect(self.endpoints.owner_dsn) as connection:
            row = connection.execute("SELECT count(*) FROM dovetail.outbox").fetchone()
        assert row is not None
        try:
            wait_until_there(self.endpoints.bootstrap_servers, self.topic, row[0], patience)
        except AssertionError as error:
            for relay in self.relays[-2:]:
                error.add_note(relay.last_words())
            error.add_note(f"partition → (end for all, end of what is committed): {self.ends()}; {self._parked()}")
            raise

    def ends(self) -> dict[int, list[int]]:
        """Where a partition ends for a reader of each isolation level: apart, an open transaction is between them."""
        ends: dict[int, list[int]] = {}
        for isolation in ("read_uncommitted", "read_committed"):
            with reader(self.endpoints.bootstrap_servers, self.topic, isolation) as (consumer, partitions):
                for partition in partitions:
                    edge = consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=10)
                    ends.setdefault(partition, []).append(edge[1])
        return ends

    def _parked(self) -> str:
        with psycopg.connect(self.endpoints.owner_dsn) as connection:
            rows = connection.execute("SELECT reason, count(*) FROM dovetail.parked GROUP BY 1").fetchall()
        return f"parked: {dict(rows)}"

    def books(self, rolled_back: Sequence[str] = ()) -> Books:
        return check(self.table(), self.read_topic(), rolled_back)

    def close(self) -> None:
        for relay in self.relays:
            relay.kill()


def number(payload: bytes) -> int:
    """The event's number, decoded without our code."""
    import io

    decoded = fastavro.schemaless_reader(io.BytesIO(payload), NUMBERED_SCHEMA)
    return int(decoded["number"])  # type: ignore[call-overload,index]


def read_topic(bootstrap_servers: str, topic: str, *, isolation: str = "read_committed") -> list[Seen]:
    """What the records say, read without the relay's code."""
    found = []
    for record in read_records(bootstrap_servers, topic, isolation=isolation):
        value = record.value()
        assert value[0] == 0
        headers = dict(record.headers())
        position = headers["position"].decode()
        found.append(
            Seen(headers["id"].decode(), record.key().decode(), number(value[5:]), record.partition(), position)
        )
    return found


def read_records(bootstrap_servers: str, topic: str, *, isolation: str = "read_committed") -> list[Message]:
    """The topic from beginning to end, partition by partition."""
    with reader(bootstrap_servers, topic, isolation) as (consumer, partitions):
        found: dict[int, list[Message]] = {partition: [] for partition in partitions}
        ended: set[int] = set()
        deadline = time.monotonic() + 60
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, f"{topic} could not be read to its end in 60 s"
            for message in consumer.consume(5000, timeout=0.05):
                if message.error() is not None:
                    ended.add(message.partition())
                    continue
                found[message.partition()].append(message)
        return [event for partition in sorted(found) for event in found[partition]]


def wait_until_there(bootstrap_servers: str, topic: str, wanted: int, patience: float) -> None:
    """Until `wanted` committed records were read from the topic; fails once none has come for `patience` seconds."""
    with reader(bootstrap_servers, topic, "read_committed") as (consumer, _partitions):
        seen, deadline = 0, time.monotonic() + patience
        while seen < wanted:
            came = sum(message.error() is None for message in consumer.consume(5000, timeout=0.05))
            seen += came
            if came:
                deadline = time.monotonic() + patience
            assert time.monotonic() < deadline, f"{seen} of {wanted} events are in {topic}; no more for {patience:g} s"


@contextmanager
def reader(bootstrap_servers: str, topic: str, isolation: str) -> Iterator[tuple[Consumer, list[int]]]:
    """A consumer at the beginning of every partition, and the partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "books",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
    try:
        partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        yield consumer, partitions
    finally:
        consumer.close()


@contextmanager
def new_world(stack: Stack, **environ: str) -> Iterator[World]:
    """A world that is set up, and cleaned away afterwards."""
    with fresh_database(stack) as endpoints:
        world = World(stack, endpoints, **environ)
        try:
            world.install()
            yield world
        finally:
            world.close()


@contextmanager
def app(world: World, *, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the service."""
    with psycopg.connect(world.endpoints.app_dsn, autocommit=autocommit) as connection:
        yield connection


def decoded(world: World, message: Message) -> Any:
    """As Confluent's own deserialiser reads it, asking the relay for the schema."""
    client = SchemaRegistryClient({"url": f"http://127.0.0.1:{world.relays[0].port()}"})
    return AvroDeserializer(client)(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
