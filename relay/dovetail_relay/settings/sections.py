"""The sections of the configuration: every key, its default with the reason, and the parser of its values.

The dataclasses are frozen: a running process never changes its mind. A key's default and its parser stand in
one place, so that file, environment and flag go through the same door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dovetail_relay.nouns import Delivery
from dovetail_relay.settings import values
from dovetail_relay.settings.secret import Secret

EMPTY: Mapping[str, Any] = MappingProxyType({})
# The table that Dovetail's migrations make.
OUTBOX = ("dovetail", "outbox")
HEADER_SETS = ("dovetail", "cloudevents", "debezium")


def empty() -> Mapping[str, Any]:
    """A default factory: a dataclass takes no mapping as a default, not even one that nobody can change."""
    return EMPTY


def by(parse: Callable[[object], Any]) -> dict[str, Any]:
    """A field's metadata: the parser of its values."""
    return {"parse": parse}


def _secret(value: object) -> Secret:
    # Not `values.text`: its message would show the value.
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise values.BadValue("the value is not a non-empty string")
    return Secret(value.strip())


def _path(value: object) -> Path:
    return Path(values.text(value)).expanduser()


def _delivery(value: object) -> Delivery:
    return Delivery(values.one_of(*(mode.value for mode in Delivery))(value))


@dataclass(frozen=True, slots=True)
class Postgres:
    """`[postgres]`: four roles, because no process should hold more rights than its work needs."""

    # The relay's own role: it streams, checkpoints and reads the outbox.
    dsn: Secret | None = field(default=None, metadata=by(_secret))
    # The same from a file, which a secret manager can rotate: it is read again at each connect.
    dsn_file: Path | None = field(default=None, metadata=by(_path))
    # Only the password of `dsn`, from a file.
    password_file: Path | None = field(default=None, metadata=by(_path))
    # Owner of the tables: only `init` uses it, and the relay's own environment should not have it.
    owner_dsn: Secret | None = field(default=None, metadata=by(_secret))
    # For the commands that change something: stuck, replay, recover.
    operator_dsn: Secret | None = field(default=None, metadata=by(_secret))
    # The service's role; only `init` (whom to grant) and `doctor` (what it may) look at it.
    app_dsn: Secret | None = field(default=None, metadata=by(_secret))
    # Off: whoever reads the wire reads every event, and the relay's password is worth the whole cluster.
    insecure: bool = field(default=False, metadata=by(values.flag))
    # Shorter than the lease, so that one dead address does not cost the lead; libpq's default is to wait for ever.
    # Where nothing is said it follows a lease that is shorter than usual.
    connect_timeout_seconds: int = field(default=5, metadata=by(values.whole(2, 600)))
    # Off: without max_slot_wal_keep_size a relay that is down for long fills the database's disk.
    accept_unbounded_wal: bool = field(default=False, metadata=by(values.flag))


@dataclass(frozen=True, slots=True)
class Kafka:
    """`[kafka]`: where the brokers are; every other librdkafka property passes through under its own name."""

    bootstrap_servers: str = field(default="", metadata=by(values.brokers))
    # Off, for the same reason as above.
    insecure: bool = field(default=False, metadata=by(values.flag))
    # None: what the topic template and the routes name. Never the row: whoever may insert an event must not choose
    # any topic of the cluster.
    allowed_topics: tuple[str, ...] | None = field(default=None, metadata=by(values.globs))
    # librdkafka properties as given; secrets among them are `Secret`.
    properties: Mapping[str, str | Secret] = field(default_factory=empty)
    # `sasl.password_file` and the like, read at each connect: {"sasl.password": path}.
    files: Mapping[str, Path] = field(default_factory=empty)


@dataclass(frozen=True, slots=True)
class Outbox:
    """`[outbox]`: which table is tailed, and where its events go when no route says otherwise."""

    table: str = field(default="dovetail.outbox", metadata=by(values.qualified_name))
    # `dovetail` for our own table, `dovetail_<table>` for another, unless it says otherwise.
    publication: str = field(default="dovetail", metadata=by(values.identifier))
    # Debezium's default, so that its consumers keep their topics.
    topic: str = field(default="outbox.event.{aggregatetype}", metadata=by(values.topic_template))
    # our column -> the table's column, for tables that exist already
    columns: Mapping[str, str] = field(default_factory=empty, metadata=by(values.column_map))
    # What a type without a route is sent as. Our own table's rows carry schemas; of another table the payload goes as
    # it is, unless it says otherwise.
    value: str = field(default="avro", metadata=by(values.one_of("avro", "passthrough")))
    # Ours are always there; more are for readers of other systems, and cost a little per event.
    headers: tuple[str, ...] = field(default=("dovetail",), metadata=by(values.some_of(*HEADER_SETS)))
    # `ce_source` of CloudEvents headers. From the relay's name unless it says otherwise.
    source: str = field(default="/dovetail/dovetail", metadata=by(values.uri_reference))
    # Off: anybody who may connect may emit a logical message.
    messages: bool = field(default=False, metadata=by(values.flag))
    # As long as the ring is: nine leaves are today, tomorrow and seven days before. Consumers' inboxes know as many.
    retention_days: int = field(default=7, metadata=by(values.whole(1, 7)))
    # Eight times what Kafka takes unless it is told otherwise; twice as much fits into any container beside a relay.
    max_row_bytes: int = field(default=8 << 20, metadata=by(values.size(64 << 10, 1 << 30)))

    @property
    def schema_and_table(self) -> tuple[str, str]:
        """The two names, unquoted."""
        return values.split_qualified(self.table)

    @property
    def foreign(self) -> bool:
        """Whether the table is the user's own: never made, altered or read by us, only streamed."""
        return self.schema_and_table != OUTBOX


@dataclass(frozen=True, slots=True)
class Route:
    """`[routes.<name>]`: one aggregate type."""

    # The route's name unless it says otherwise; filled in when the configuration is put together.
    aggregatetype: str = field(default="", metadata=by(values.text))
    # From the outbox's topic template unless it says otherwise.
    topic: str = field(default="", metadata=by(values.topic))
    # What `[outbox] value` says unless it says otherwise.
    value: str = field(default="avro", metadata=by(values.one_of("avro", "passthrough")))
    # hold: the only policy that keeps the order of a key and lets the other keys flow
    on_stuck: str = field(default="hold", metadata=by(values.one_of("hold", "halt", "skip")))
    # Divides by 1, 2, 3 and 6 consumers; more can never be taken away, and adding some breaks the order per key.
    partitions: int = field(default=6, metadata=by(values.whole(1, 10_000)))
    # 0: three, or as many as there are brokers
    replication_factor: int = field(default=0, metadata=by(values.whole(0, 100)))


@dataclass(frozen=True, slots=True)
class Registry:
    """`[registry]`: empty means the built-in registry."""

    url: str | None = field(default=None, metadata=by(values.http_url))


@dataclass(frozen=True, slots=True)
class DeliverySection:
    """`[delivery]`: how events are put into Kafka transactions."""

    mode: Delivery = field(default=Delivery.EXACTLY_ONCE, metadata=by(_delivery))
    # A commit costs 5 to 12 ms whatever its size: 100, 1,000, 5,000 rows reach 0.13, 0.55, 0.91 of the yardstick.
    batch_rows: int = field(default=6000, metadata=by(values.whole(1, 100_000)))
    # Two batches are in memory at a time.
    batch_bytes: int = field(default=4 << 20, metadata=by(values.size(64 << 10, 256 << 20)))
    # A pause after a busy commit: starting at once runs into librdkafka's fixed 20 ms wait (p50 17 ms instead of 40).
    linger_ms: int = field(default=2, metadata=by(values.whole(0, 1000)))


@dataclass(frozen=True, slots=True)
class Relay:
    """`[relay]`: who this relay is; replicas of one relay share the name."""

    name: str = field(default="dovetail", metadata=by(values.relay_name))
    # From the name unless it says otherwise.
    slot: str = field(default="", metadata=by(values.slot_name))
    # On loopback until somebody decides otherwise: the port has no authentication.
    http_host: str = field(default="127.0.0.1", metadata=by(values.text))
    # 0: any free port
    http_port: int = field(default=8642, metadata=by(values.whole(0, 65535)))
    # How long a frozen leader may hold the lead; ten times the longest step of the loop.
    lease_seconds: float = field(default=10.0, metadata=by(values.seconds(2, 300)))


@dataclass(frozen=True, slots=True)
class Log:
    """`[log]`."""

    level: str = field(default="info", metadata=by(values.one_of("debug", "info", "warning", "error")))
    # None: text on a terminal, JSON elsewhere.
    format: str | None = field(default=None, metadata=by(values.one_of("json", "text")))
