"""The bench's own small world: real servers, one database, one topic, rows that need no client to write."""

from __future__ import annotations

import compileall
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

import dovetail
from dovetail_local.endpoints import Endpoints
from dovetail_local.stack import Stack
from dovetail_relay.config import load
from dovetail_relay.setup.install import Plan, install

AGGREGATE = "order"
TOPIC = f"outbox.event.{AGGREGATE}"
PARTITIONS = 3
PAYLOAD_BYTES = 200

SCHEMA = {
    "type": "record",
    "name": "Measured",
    "fields": [
        {"name": "key", "type": "string"},
        {"name": "sent_ns", "type": "long"},
        {"name": "pad", "type": "bytes"},
    ],
}
MEASURED = dovetail.EventType.from_avsc(SCHEMA, aggregate=AGGREGATE, key="key", type="Measured")

# Transactions of ten rows, committed by the server itself, so that no client is measured.
_FILL = """
DO $$
BEGIN
    FOR i IN 1..{transactions} LOOP
        INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)
        SELECT gen_random_uuid(), '{aggregate}', 'key-' || (row % 97), 'Measured', '\\x{payload}', '\\x{fingerprint}'
        FROM generate_series(1, {rows}) AS row;
        COMMIT;
    END LOOP;
END
$$
"""


def compile_bytecode() -> None:
    """As an installer does. Where PYTHONDONTWRITEBYTECODE is set, a checkout compiles its sources at each start."""
    for folder in ("schemas", "sdk", "relay"):
        if not compileall.compile_dir(Path(__file__).parents[1] / folder, quiet=1):
            raise SystemExit(f"{folder} does not compile")


@dataclass(frozen=True, slots=True)
class Rig:
    """One database with the relay set up in it."""

    stack: Stack
    endpoints: Endpoints
    name: str

    def environ(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            **self.endpoints.environment(),
            "DOVETAIL_RELAY__NAME": self.name,
            "DOVETAIL_RELAY__HTTP_PORT": "0",
            "DOVETAIL_LOG__FORMAT": "json",
            f"DOVETAIL_ROUTES__{self.name.upper()}__AGGREGATETYPE": AGGREGATE,
            f"DOVETAIL_ROUTES__{self.name.upper()}__TOPIC": self.topic,
            f"DOVETAIL_ROUTES__{self.name.upper()}__PARTITIONS": str(PARTITIONS),
            **more,
        }

    @property
    def topic(self) -> str:
        return f"{TOPIC}.{self.name}"

    def fill(self, rows: int, per_transaction: int = 10) -> None:
        """Write `rows` rows of `PAYLOAD_BYTES` each."""
        statement = _FILL.format(
            transactions=max(1, rows // per_transaction),
            rows=per_transaction,
            aggregate=AGGREGATE,
            payload="02" * PAYLOAD_BYTES,
            fingerprint=MEASURED.fingerprint.hex(),
        )
        with psycopg.connect(self.endpoints.owner_dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(statement)

    def settle(self) -> None:
        """Do now what the server would else do beside the measurement: it would hit one of the readers only."""
        with psycopg.connect(self.endpoints.superuser_dsn, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE) dovetail.outbox")
            connection.execute("CHECKPOINT")

    def slot(self, name: str) -> None:
        """A slot of the yardstick's own, from here on."""
        with psycopg.connect(self.endpoints.superuser_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))

    def drop_slot(self, name: str) -> None:
        with psycopg.connect(self.endpoints.superuser_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))

    def published(self) -> int:
        """How far the topic's partitions go, together."""
        return sum(high_watermarks(self.endpoints.bootstrap_servers, self.topic).values())

    def wal_end(self) -> str:
        with psycopg.connect(self.endpoints.owner_dsn, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def relay(self, **environ: str) -> RelayUnderTest:
        return RelayUnderTest(self, **environ)


class RelayUnderTest:
    """The relay as users run it, with what /proc says of it."""

    def __init__(self, rig: Rig, **environ: str) -> None:
        self._rig = rig
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dovetail_relay", "relay", "run"],
                env=rig.environ(**environ),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait_streaming(self) -> None:
        self.wait_for("stream_started")

    def wait_for(self, event: str) -> None:
        """Until it has logged `event`."""
        self.until(lambda: event.encode() in self.log.read_bytes(), f"it logs {event}", 60, every=0.005)

    def until(self, fact: Callable[[], bool], what: str, seconds: float, *, every: float = 0.05) -> None:
        """Wait for a fact; ends the benchmark where the relay ends or halts, or the time is up."""
        deadline = time.monotonic() + seconds
        while not fact():
            if self.process.poll() is not None or b"relay_halted" in self.log.read_bytes():
                raise SystemExit(f"the relay ended: {self.log.read_text()[-1000:]}")
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {seconds:g} s: {what}")
            time.sleep(every)  # between two looks at a log or a topic, which call nobody

    def logged_at(self, event: str) -> float:
        """When it logged `event` first, as a Unix time."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return next(datetime.fromisoformat(line["ts"]).timestamp() for line in lines if line["event"] == event)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self, which: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(which + ":"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"no {which}")

    def kill(self) -> None:
        """kill -9, frozen or not, dead already or not."""
        self.process.kill()
        self.process.wait(15)
        self.log.unlink()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)
        self.log.unlink()


class Checkpoints:
    """Follows the checkpoint topic as a `read_committed` reader, from the newest record on."""

    def __init__(self, rig: Rig) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": rig.endpoints.bootstrap_servers,
                "group.id": "bench",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        partition = TopicPartition(f"dovetail.checkpoint.{rig.name}", 0)
        low, high = self._consumer.get_watermark_offsets(partition, timeout=10)
        # Two back lies the newest one: behind it comes the marker of its commit.
        partition.offset = max(low, high - 2)
        self._consumer.assign([partition])

    def writer(self, timeout: float) -> str | None:
        """Who wrote the next checkpoint."""
        message = self._consumer.poll(timeout)
        if message is None or message.error() is not None:
            return None
        return str(json.loads(message.value())["writer"])

    def writer_now(self) -> str:
        """Who wrote the newest one."""
        for _ in range(100):
            if (found := self.writer(0.1)) is not None:
                return found
        raise SystemExit("there is no checkpoint yet")

    def wait_for_another(self, than: str, timeout: float) -> None:
        """Until somebody else's checkpoint is seen."""
        deadline = time.monotonic() + timeout
        while (found := self.writer(0.01)) is None or found == than:
            if time.monotonic() > deadline:
                raise SystemExit(f"no checkpoint of another relay within {timeout:g} s")

    def close(self) -> None:
        self._consumer.close()


def high_watermarks(bootstrap: str, topic: str) -> dict[int, int]:
    """End offsets per partition, control records included."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "log_level": 0})
    try:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10, cached=False)[1]
            for partition in range(PARTITIONS)
        }
    finally:
        consumer.close()


@contextmanager
def new_rig(stack: Stack) -> Iterator[Rig]:
    """A database of its own on the running stack, with `dovetail init` done and the schema registered."""
    name = "b" + secrets.token_hex(4)
    with psycopg.connect(stack.endpoints().superuser_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" OWNER owner')
    rig = Rig(stack, stack.endpoints().on_database(name), name)
    install(load(None, rig.environ(), {}), Plan(), report=lambda _: None, on_wait=lambda _: None)
    with psycopg.connect(rig.endpoints.app_dsn) as connection:
        dovetail.register(connection, MEASURED)
    try:
        yield rig
    finally:
        with psycopg.connect(stack.endpoints().superuser_dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE database = %s AND active_pid IS NOT NULL",
                (name,),
            )
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    connection.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s",
                        (name,),
                    )
                    break
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.05)  # its walsender was told to end; nothing tells when it has
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
