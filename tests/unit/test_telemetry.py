"""The metrics' contract: what the table says is what /metrics shows, and the numbers mean what they say."""

import math
import re

import pytest
from prometheus_client import generate_latest

from dovetail_relay.nouns import Batch, Lsn, Record
from dovetail_relay.telemetry import METRICS, LogEvent, Telemetry

PG_EPOCH_SECONDS = 946_684_800
NOW = 1_800_000_000.0
NOW_US = int((NOW - PG_EPOCH_SECONDS) * 1e6)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(version="1.2.3", wall=lambda: NOW)


def value(telemetry: Telemetry, sample: str, /, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(sample, labels)


def batch(*topics: str, transactions: int = 1, oldest_commit_us: int = 0) -> Batch:
    records = [Record(topic, b"", b"", []) for topic in topics]
    return Batch(records, Lsn(1), None, transactions=transactions, oldest_commit_us=oldest_commit_us)


def test_what_is_shown_is_exactly_the_table(telemetry: Telemetry) -> None:
    text = generate_latest(telemetry.registry).decode()
    shown = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    created = {name for name in shown if name.endswith("_created")}
    assert {name: kind for name, kind in shown.items() if name not in created} == {m.name: m.kind for m in METRICS}


def test_each_metric_has_a_name_a_sentence_and_a_kind_that_fit_together() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"dovetail_[a-z_]+", metric.name)
        assert metric.help.endswith(".") or metric.name.endswith("_info")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(metric.buckets)


def test_log_events_are_lower_case_words_and_no_two_are_one() -> None:
    values = [event.value for event in LogEvent]
    assert len(set(values)) == len(values)
    for event in LogEvent:
        assert event.value == event.name.lower()


def test_a_published_batch_counts_events_by_topic_transactions_and_times(telemetry: Telemetry) -> None:
    telemetry.published(batch("a", "b", "a", transactions=2, oldest_commit_us=NOW_US - 500_000), commit_seconds=0.02)
    assert value(telemetry, "dovetail_events_published_total", topic="a") == 2
    assert value(telemetry, "dovetail_events_published_total", topic="b") == 1
    assert value(telemetry, "dovetail_transactions_total") == 2
    assert value(telemetry, "dovetail_batch_rows_sum") == 3
    assert value(telemetry, "dovetail_commit_duration_seconds_sum") == 0.02
    assert value(telemetry, "dovetail_publish_latency_seconds_sum") == pytest.approx(0.5)


def test_an_idle_checkpoint_counts_for_nothing(telemetry: Telemetry) -> None:
    telemetry.published(batch(transactions=0), commit_seconds=0.01)
    assert value(telemetry, "dovetail_batch_rows_count") == 0
    assert value(telemetry, "dovetail_commit_duration_seconds_count") == 0


def test_an_unknown_commit_time_is_not_a_latency(telemetry: Telemetry) -> None:
    telemetry.published(batch("a"), commit_seconds=0.01)
    assert value(telemetry, "dovetail_publish_latency_seconds_count") == 0


def test_topics_beyond_what_is_kept_share_one_label(telemetry: Telemetry) -> None:
    telemetry.published(batch(*(f"t{number}" for number in range(600))), commit_seconds=0.01)
    telemetry.published(batch("t0"), commit_seconds=0.01)
    assert value(telemetry, "dovetail_events_published_total", topic="other") == 100
    assert value(telemetry, "dovetail_events_published_total", topic="t0") == 2


def test_lag_is_zero_when_idle_and_grows_by_itself_when_the_relay_hangs() -> None:
    now = [NOW]
    telemetry = Telemetry(wall=lambda: now[0])
    assert value(telemetry, "dovetail_relay_lag_seconds") == 0
    telemetry.backlog(oldest_commit_us=NOW_US, events=7, wal_bytes=100)
    now[0] += 30
    assert value(telemetry, "dovetail_relay_lag_seconds") == pytest.approx(30)
    assert value(telemetry, "dovetail_relay_lag_events") == 7
    telemetry.backlog(oldest_commit_us=None, events=0, wal_bytes=-5)
    assert value(telemetry, "dovetail_relay_lag_seconds") == 0
    assert value(telemetry, "dovetail_relay_lag_bytes") == 0


def test_a_database_whose_clock_is_ahead_gives_no_negative_lag(telemetry: Telemetry) -> None:
    telemetry.backlog(oldest_commit_us=NOW_US + 5_000_000, events=1, wal_bytes=1)
    assert value(telemetry, "dovetail_relay_lag_seconds") == 0


def test_positions_and_progress_are_shown_as_numbers(telemetry: Telemetry) -> None:
    telemetry.progress(received_lsn=Lsn(0x16B374D848))
    telemetry.positions(checkpoint=Lsn(3), confirmed=Lsn(2))
    assert value(telemetry, "dovetail_received_lsn") == 0x16B374D848
    assert value(telemetry, "dovetail_checkpoint_lsn") == 3
    assert value(telemetry, "dovetail_confirmed_flush_lsn") == 2
    assert value(telemetry, "dovetail_last_progress_timestamp_seconds") == NOW


def test_only_the_halt_that_the_relay_is_in_is_one(telemetry: Telemetry) -> None:
    telemetry.halted("GAP")
    telemetry.halted("SLOT_LOST")
    assert value(telemetry, "dovetail_relay_halted", reason="GAP") == 0
    assert value(telemetry, "dovetail_relay_halted", reason="SLOT_LOST") == 1
    telemetry.halted(None)
    assert value(telemetry, "dovetail_relay_halted", reason="SLOT_LOST") == 0


def test_a_server_without_a_limit_for_slots_has_infinite_room(telemetry: Telemetry) -> None:
    assert math.isnan(value(telemetry, "dovetail_slot_safe_wal_bytes") or 0)
    telemetry.slot(active=True, retained_wal_bytes=10, safe_wal_bytes=None)
    assert value(telemetry, "dovetail_slot_safe_wal_bytes") == math.inf
    telemetry.slot(active=False, retained_wal_bytes=10, safe_wal_bytes=0)
    assert value(telemetry, "dovetail_slot_safe_wal_bytes") == 0


def test_books_are_unknown_until_somebody_has_looked(telemetry: Telemetry) -> None:
    assert math.isnan(value(telemetry, "dovetail_books_balanced") or 0)
    telemetry.books(balanced=False)
    assert value(telemetry, "dovetail_books_balanced") == 0


def test_leading_counts_as_a_takeover_and_standing_back_does_not(telemetry: Telemetry) -> None:
    telemetry.leader(leads=True)
    telemetry.leader(leads=False)
    telemetry.leader(leads=True)
    assert value(telemetry, "dovetail_takeovers_total") == 2
    assert value(telemetry, "dovetail_relay_leader") == 1


def test_counters_by_name_and_states(telemetry: Telemetry) -> None:
    telemetry.describe(relay="shop", slot="dovetail_shop", delivery="exactly_once")
    telemetry.connected("kafka", connected=True, again=True)
    telemetry.recycled("timeout")
    telemetry.error("KAFKA_UNAVAILABLE")
    telemetry.stuck("schema")
    telemetry.parked(messages=3, keys=2)
    telemetry.ready(ready=True)
    expected = {
        ("dovetail_reconnects_total", "server", "kafka"): 1,
        ("dovetail_recycles_total", "reason", "timeout"): 1,
        ("dovetail_errors_total", "name", "KAFKA_UNAVAILABLE"): 1,
        ("dovetail_stuck_messages_total", "reason", "schema"): 1,
    }
    for (name, label, shown), count in expected.items():
        assert value(telemetry, name, **{label: shown}) == count
    labels = {"relay": "shop", "slot": "dovetail_shop", "delivery": "exactly_once"}
    assert value(telemetry, "dovetail_relay_info", **labels) == 1
    assert value(telemetry, "dovetail_parked_messages") == 3
    assert value(telemetry, "dovetail_held_keys") == 2
    assert value(telemetry, "dovetail_kafka_connected") == value(telemetry, "dovetail_relay_ready") == 1


def test_two_relays_in_one_process_do_not_share_numbers() -> None:
    one, other = Telemetry(), Telemetry()
    one.published(batch("a"), commit_seconds=0.01)
    assert value(other, "dovetail_transactions_total") == 0
