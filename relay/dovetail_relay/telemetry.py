"""Every metric of the relay and every log event name, in one table that is the contract.

Dashboards, alerts and scripts are written against these names; they change only with a major version. `METRICS` and
`LogEvent` are the whole of it: what is not in them is not emitted, and the reference pages are printed from them.

`Telemetry` is what the relay calls: once per batch or per change of state, never per row. Its registry is its own, so
two relays in one test do not share numbers. All methods may be called from any thread.
"""

from __future__ import annotations

import math
import platform
import time
from collections import Counter as Tally
from collections.abc import Callable
from enum import StrEnum
from operator import itemgetter
from typing import Final, Literal, NamedTuple, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dovetail_relay.nouns import Batch, Lsn, Record

Kind = Literal["counter", "gauge", "histogram"]
Server = Literal["postgres", "kafka"]


class Metric(NamedTuple):
    """One line of the contract. `name` is what Prometheus shows, `_total` and units included."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# A commit takes 5 to 12 ms on a healthy broker; beyond 8 s the producer is given up.
_COMMIT_SECONDS: Final = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# From one row to the largest batch that a configuration can ask for.
_ROWS: Final = (1, 10, 100, 500, 1000, 2500, 5000, 10_000, 50_000)
# Up to a minute: past that it is an outage and `relay_lag_seconds` tells the story.
_LATENCY_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

METRICS: Final = (
    Metric(
        "dovetail_relay_lag_seconds",
        "gauge",
        "Age of the oldest commit that was read and is not yet published; 0 when idle.",
    ),
    Metric("dovetail_relay_lag_bytes", "gauge", "WAL between the server's position and the checkpoint."),
    Metric("dovetail_relay_lag_events", "gauge", "Rows that were read and are not yet published."),
    Metric("dovetail_relay_leader", "gauge", "1 when this process leads, 0 when it stands by."),
    Metric("dovetail_relay_ready", "gauge", "1 when /readyz answers 200."),
    Metric("dovetail_relay_halted", "gauge", "1 for the named halt that the relay is in.", ("reason",)),
    Metric("dovetail_relay_info", "gauge", "1; the labels say which relay this is.", ("relay", "slot", "delivery")),
    Metric("dovetail_build_info", "gauge", "1; the labels say what runs.", ("version", "python")),
    Metric("dovetail_events_published_total", "counter", "Events that Kafka has committed.", ("topic",)),
    Metric("dovetail_transactions_total", "counter", "PostgreSQL transactions whose events Kafka has committed."),
    Metric("dovetail_batch_rows", "histogram", "Rows per Kafka transaction.", (), _ROWS),
    Metric("dovetail_commit_duration_seconds", "histogram", "Time to commit a Kafka transaction.", (), _COMMIT_SECONDS),
    Metric(
        "dovetail_publish_latency_seconds",
        "histogram",
        "From COMMIT in PostgreSQL to the commit in Kafka, of the oldest transaction of each batch.",
        (),
        _LATENCY_SECONDS,
    ),
    Metric("dovetail_recycles_total", "counter", "Producers given up because an outcome was unknown.", ("reason",)),
    Metric("dovetail_takeovers_total", "counter", "Times this process became the leader."),
    Metric("dovetail_checkpoint_lsn", "gauge", "Position up to which everything is published, as a number."),
    Metric("dovetail_confirmed_flush_lsn", "gauge", "Position that was confirmed to PostgreSQL, as a number."),
    Metric("dovetail_received_lsn", "gauge", "Newest position received from PostgreSQL, as a number."),
    Metric("dovetail_slot_retained_wal_bytes", "gauge", "WAL that the server keeps because of the slot."),
    Metric(
        "dovetail_slot_safe_wal_bytes",
        "gauge",
        "WAL that can be written before the slot is lost; +Inf where no limit is set, NaN while unknown.",
    ),
    Metric("dovetail_slot_active", "gauge", "1 when a process streams from the slot."),
    Metric("dovetail_last_progress_timestamp_seconds", "gauge", "Wall clock of the last real progress on the wire."),
    Metric("dovetail_postgres_connected", "gauge", "1 when the relay has a live connection to PostgreSQL."),
    Metric("dovetail_kafka_connected", "gauge", "1 when the last answer from Kafka was a good one."),
    Metric("dovetail_reconnects_total", "counter", "Connections made again after a loss.", ("server",)),
    Metric("dovetail_errors_total", "counter", "Errors by their name in the relay's error tree.", ("name",)),
    Metric("dovetail_stuck_messages_total", "counter", "Messages that could not be published.", ("reason",)),
    Metric(
        "dovetail_messages_ignored_total",
        "counter",
        "Logical messages that are no events: another prefix, or sent whether or not their transaction committed.",
        ("reason",),
    ),
    Metric("dovetail_parked_messages", "gauge", "Messages parked now, held ones included; counted to 100,000."),
    Metric("dovetail_held_keys", "gauge", "Keys held behind a stuck message, of the first 100,000 messages."),
    Metric("dovetail_books_balanced", "gauge", "1 when outbox and topics agree, 0 when not, NaN while unknown."),
    Metric(
        "dovetail_outbox_oldest_day_timestamp_seconds",
        "gauge",
        "Start of the oldest day, UTC, of which the outbox holds events; NaN while unknown, or when it holds none.",
    ),
    Metric(
        "dovetail_outbox_leaf_overdue_seconds",
        "gauge",
        "How long the leaf that takes tomorrow's events could have been emptied and was not; NaN while unknown.",
    ),
)


class LogEvent(StrEnum):
    """The `event` field of every log line. Grouped by what an operator would look for."""

    RELAY_STARTED = "relay_started"
    RELAY_STOPPING = "relay_stopping"
    RELAY_STOPPED = "relay_stopped"
    RELAY_READY = "relay_ready"
    RELAY_HALTED = "relay_halted"
    RELAY_RESUMED = "relay_resumed"
    RELAY_RESTARTING = "relay_restarting"
    CONFIG_LOADED = "config_loaded"
    HEALTH_LISTENING = "health_listening"
    HEALTH_REQUEST_FAILED = "health_request_failed"

    STANDING_BY = "standing_by"
    NO_SEAT = "no_seat"
    LEAD_TAKEN = "lead_taken"
    LEAD_LOST = "lead_lost"
    STALE_LEADER_ENDED = "stale_leader_ended"
    FENCED = "fenced"

    POSTGRES_CONNECTED = "postgres_connected"
    POSTGRES_LOST = "postgres_lost"
    KAFKA_CONNECTED = "kafka_connected"
    KAFKA_LOST = "kafka_lost"
    RETRYING = "retrying"
    STREAM_STARTED = "stream_started"
    STREAM_ENDED = "stream_ended"
    SLOT_CHECKED = "slot_checked"
    TIMELINE_CHANGED = "timeline_changed"

    CHECKPOINT_READ = "checkpoint_read"
    CHECKPOINT_WRITTEN = "checkpoint_written"
    BATCH_PUBLISHED = "batch_published"
    BATCH_UNKNOWN = "batch_unknown"
    PRODUCER_RECYCLED = "producer_recycled"
    LARGE_TRANSACTION = "large_transaction"

    MESSAGE_STUCK = "message_stuck"
    LOOKING_FOR_POISON = "looking_for_poison"
    KEY_HELD = "key_held"
    KEY_RELEASED = "key_released"
    MESSAGE_DISCARDED = "message_discarded"
    MESSAGE_DEAD_LETTERED = "message_dead_lettered"

    SCHEMA_LEARNED = "schema_learned"
    REGISTRY_UNREACHABLE = "registry_unreachable"

    AUDIT_REWRITTEN = "audit_rewritten"
    COMMAND_TAKEN = "command_taken"
    COMMAND_SETTLED = "command_settled"
    RECOVERY_STARTED = "recovery_started"
    RECOVERY_FINISHED = "recovery_finished"
    LEAF_EMPTIED = "leaf_emptied"
    LEAF_WAITS = "leaf_waits"
    HOUSEKEEPING_FAILED = "housekeeping_failed"
    BOOKS_UNBALANCED = "books_unbalanced"
    BOOKS_BALANCED = "books_balanced"

    UNEXPECTED_ERROR = "unexpected_error"
    LIBRARY_MESSAGE = "library_message"


# PostgreSQL counts microseconds from 2000-01-01, the wall clock seconds from 1970.
_PG_EPOCH_SECONDS: Final = 946_684_800

_DAY_SECONDS: Final = 86_400
_RING: Final = ("dovetail_outbox_oldest_day_timestamp_seconds", "dovetail_outbox_leaf_overdue_seconds")

_topic_of: Final = itemgetter(Record._fields.index("topic"))

# A topic per aggregate type is ordinary, thousands are a mistake that must not fill the metrics store.
_KEPT_TOPICS: Final = 500
_OTHER_TOPICS: Final = "other"


class Telemetry:
    """The relay's numbers. `registry` is what /metrics shows; `wall` is the wall clock, for ages and timestamps."""

    def __init__(self, *, version: str = "unknown", wall: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._wall = wall
        self._metrics = {metric.name: _made(metric, self.registry) for metric in METRICS}
        self._topics: dict[str, Counter] = {}
        self._oldest_commit_us: int | None = None
        self._halted: str | None = None
        self._batch_rows = self._histogram("dovetail_batch_rows")
        self._commit_seconds = self._histogram("dovetail_commit_duration_seconds")
        self._latency = self._histogram("dovetail_publish_latency_seconds")
        self._transactions = self._counter("dovetail_transactions_total")
        self._progress = self._gauge("dovetail_last_progress_timestamp_seconds")
        self._received = self._gauge("dovetail_received_lsn")
        self._checkpoint = self._gauge("dovetail_checkpoint_lsn")
        self._confirmed = self._gauge("dovetail_confirmed_flush_lsn")
        self._lag_events = self._gauge("dovetail_relay_lag_events")
        self._lag_bytes = self._gauge("dovetail_relay_lag_bytes")
        # Computed when somebody looks: a relay that hangs must not show the lag of its last good moment.
        self._gauge("dovetail_relay_lag_seconds").set_function(self._lag_seconds)
        self._gauge("dovetail_build_info", version, platform.python_version()).set(1)
        for unknown in ("dovetail_slot_safe_wal_bytes", "dovetail_books_balanced", *_RING):
            self._gauge(unknown).set(math.nan)

    def describe(self, *, relay: str, slot: str, delivery: str) -> None:
        """Which relay this is; once, at start."""
        self._gauge("dovetail_relay_info", relay, slot, delivery).set(1)

    def published(self, batch: Batch, *, commit_seconds: float) -> None:
        """Once per batch that Kafka has for good. An idle checkpoint counts for nothing here."""
        if not batch.records:
            return
        for topic, count in Tally(map(_topic_of, batch.records)).items():
            self._published(topic).inc(count)
        self._batch_rows.observe(len(batch.records))
        self._transactions.inc(batch.transactions)
        self._commit_seconds.observe(commit_seconds)
        if batch.oldest_commit_us:
            self._latency.observe(self._age_seconds(batch.oldest_commit_us))

    def backlog(self, *, oldest_commit_us: int | None, events: int, wal_bytes: int) -> None:
        """What was read and is not published: its oldest COMMIT (µs since 2000; None when idle), rows, WAL bytes."""
        self._oldest_commit_us = oldest_commit_us
        self._lag_events.set(events)
        self._lag_bytes.set(max(0, wal_bytes))

    def progress(self, *, received_lsn: Lsn | None = None) -> None:
        """Real progress on the wire, now; with the newest position where something was received."""
        self._progress.set(self._wall())
        if received_lsn is not None:
            self._received.set(received_lsn)

    def positions(self, *, checkpoint: Lsn, confirmed: Lsn) -> None:
        """The durable checkpoint and what was confirmed to PostgreSQL; once per change."""
        self._checkpoint.set(checkpoint)
        self._confirmed.set(confirmed)

    def slot(self, *, active: bool, retained_wal_bytes: int, safe_wal_bytes: int | None) -> None:
        """What the server says of the slot. `safe_wal_bytes` is None where the server sets no limit."""
        self._gauge("dovetail_slot_active").set(active)
        self._gauge("dovetail_slot_retained_wal_bytes").set(retained_wal_bytes)
        self._gauge("dovetail_slot_safe_wal_bytes").set(math.inf if safe_wal_bytes is None else safe_wal_bytes)

    def leader(self, *, leads: bool) -> None:
        """Leadership as it is; a change to leading counts as a takeover and must be told once."""
        self._gauge("dovetail_relay_leader").set(leads)
        if leads:
            self._counter("dovetail_takeovers_total").inc()

    def ready(self, *, ready: bool) -> None:
        self._gauge("dovetail_relay_ready").set(ready)

    def halted(self, reason: str | None) -> None:
        """The named halt that the relay is in; None when it goes on."""
        before, self._halted = self._halted, reason
        if before is not None and before != reason:
            self._gauge("dovetail_relay_halted", before).set(0)
        if reason is not None:
            self._gauge("dovetail_relay_halted", reason).set(1)

    def connected(self, server: Server, *, connected: bool, again: bool = False) -> None:
        """A connection came or went; `again` when it was made after a loss."""
        self._gauge(f"dovetail_{server}_connected").set(connected)
        if again:
            self._counter("dovetail_reconnects_total", server).inc()

    def recycled(self, reason: str) -> None:
        self._counter("dovetail_recycles_total", reason).inc()

    def error(self, name: str) -> None:
        """An error of the tree, by its `name`."""
        self._counter("dovetail_errors_total", name).inc()

    def stuck(self, reason: str) -> None:
        """A StuckMessage, by its `reason`."""
        self._counter("dovetail_stuck_messages_total", reason).inc()

    def message_ignored(self, reason: str) -> None:
        """A logical message that is no event: `prefix` or `not_transactional`."""
        self._counter("dovetail_messages_ignored_total", reason).inc()

    def parked(self, *, messages: int, keys: int) -> None:
        self._gauge("dovetail_parked_messages").set(messages)
        self._gauge("dovetail_held_keys").set(keys)

    def books(self, *, balanced: bool | None) -> None:
        """Whether outbox and topics agree; None is unknown."""
        self._gauge("dovetail_books_balanced").set(math.nan if balanced is None else balanced)

    def ring(self, *, oldest_day: int | None, overdue_seconds: float | None) -> None:
        """The outbox's oldest day with events, since 1970, and how long tomorrow's leaf is overdue; None is unknown."""
        oldest = math.nan if oldest_day is None else oldest_day * _DAY_SECONDS
        for name, value in zip(_RING, (oldest, overdue_seconds), strict=True):
            self._gauge(name).set(math.nan if value is None else value)

    def _lag_seconds(self) -> float:
        oldest = self._oldest_commit_us
        return 0.0 if oldest is None else self._age_seconds(oldest)

    def _age_seconds(self, commit_us: int) -> float:
        # Two machines' clocks: a small negative age means zero.
        return max(0.0, self._wall() - _PG_EPOCH_SECONDS - commit_us / 1e6)

    def _published(self, topic: str) -> Counter:
        counter = self._topics.get(topic)
        if counter is None:
            shown = topic if len(self._topics) < _KEPT_TOPICS else _OTHER_TOPICS
            counter = self._counter("dovetail_events_published_total", shown)
            if shown == topic:
                self._topics[topic] = counter
        return counter

    def _counter(self, name: str, *labels: str) -> Counter:
        return cast("Counter", self._metrics[name].labels(*labels) if labels else self._metrics[name])

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return cast("Gauge", self._metrics[name].labels(*labels) if labels else self._metrics[name])

    def _histogram(self, name: str) -> Histogram:
        return cast("Histogram", self._metrics[name])


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, metric.labels, registry=registry)
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
