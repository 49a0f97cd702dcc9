"""What `status` makes of what it saw: the lag, and what is wrong with which next command."""

from dataclasses import replace

import pytest

from dovetail_relay.nouns import Checkpoint, Lsn
from dovetail_relay.observe import process, report, verdict
from dovetail_relay.observe.database import count_above, horizon_of
from dovetail_relay.observe.facts import DatabaseSide, KafkaSide, Leader, ProcessSide, Rows, Seen, Slot, Stuck

CHECKPOINT = Checkpoint(
    epoch=1,
    seq=7,
    writer="w",
    system_id="1",
    timeline=1,
    database="shop",
    slot="s",
    end_lsn=Lsn(900),
    horizon=50,
)
SLOT = Slot(active=True, wal_status="reserved", retained_bytes=100, safe_wal_bytes=None, confirmed_flush=Lsn(900))
DATABASE = DatabaseSide(
    database="shop",
    in_recovery=False,
    wal_lsn=Lsn(1000),
    leader=Leader(1, "dovetail-relay-r", "10.0.0.1", 0.5),
    slot=SLOT,
    epoch=1,
    started=True,
    rows=Rows(3, 12.0),
)
WELL = Seen("r", "s", DATABASE, KafkaSide(CHECKPOINT, 1.0), None)
LEADS = ProcessSide("a:1", ready=True, role="leader", leads=True, lag_events=2.0, lag_seconds=0.5)


def names(seen: Seen, max_lag_seconds: float = 60) -> list[str]:
    return [found.name for found in verdict.findings_of(seen, verdict.lag_of(seen), max_lag_seconds)]


def with_database(**changes: object) -> Seen:
    return replace(WELL, database=replace(DATABASE, **changes))  # type: ignore[arg-type]


def test_a_relay_that_is_well_has_no_findings() -> None:
    assert names(WELL) == []


def test_a_server_on_another_timeline_than_the_checkpoint_is_a_finding_until_somebody_leads() -> None:
    assert names(with_database(timeline=2)) == []
    assert names(with_database(timeline=2, leader=None)) == ["NOBODY_LEADS", "TIMELINE_CHANGED"]
    assert names(with_database(timeline=1, leader=None)) == ["NOBODY_LEADS"]


def test_a_stream_that_waits_for_a_standby_nobody_runs_is_a_finding_on_the_primary_only() -> None:
    assert names(with_database(awaited=("standby1",))) == ["STANDBY_AWAITED"]
    assert names(with_database(awaited=("standby1",), in_recovery=True)) == ["MISCONFIGURED"]


def test_rows_above_the_horizon_are_an_upper_bound() -> None:
    lag = verdict.lag_of(WELL)
    assert (lag.events, lag.seconds, lag.bytes, lag.source, lag.at_most) == (3, 12.0, 100, "outbox", True)


def test_the_leading_relays_own_count_goes_before_the_outbox_and_keeps_its_bound() -> None:
    lag = verdict.lag_of(replace(WELL, process=LEADS))
    assert (lag.events, lag.seconds, lag.source, lag.at_most, lag.bound) == (2, 0.5, "relay", False, 3)


def test_a_standbys_count_says_nothing_about_the_leader() -> None:
    assert verdict.lag_of(replace(WELL, process=replace(LEADS, leads=False))).source == "outbox"


def test_nothing_is_behind_a_checkpoint_at_the_end_of_the_wal() -> None:
    lag = verdict.lag_of(with_database(wal_lsn=Lsn(900)))
    assert (lag.events, lag.seconds, lag.bytes, lag.source) == (0, 0.0, 0, "positions")


def test_without_kafka_the_slot_still_tells_the_bytes_but_never_that_all_is_published() -> None:
    lag = verdict.lag_of(replace(WELL, kafka=None, database=replace(DATABASE, wal_lsn=Lsn(900), rows=None)))
    assert (lag.events, lag.bytes, lag.source) == (None, 1, "unknown")


def test_without_postgresql_nothing_is_known_and_nothing_breaks() -> None:
    seen = replace(WELL, database=None)
    assert verdict.lag_of(seen).bytes is None
    assert names(seen) == []
    assert any("seq 7" in line for line in report.as_lines(seen, verdict.lag_of(seen)))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (with_database(leader=None), ["NOBODY_LEADS"]),
        (with_database(leader=Leader(1, None, None, 30.0)), ["LEADER_SILENT"]),
        (with_database(slot=None), ["SLOT_LOST"]),
        (with_database(slot=replace(SLOT, wal_status="lost")), ["SLOT_LOST"]),
        (with_database(slot=replace(SLOT, wal_status="unreserved")), ["SLOT_AT_RISK"]),
        (with_database(epoch=None), ["MISCONFIGURED"]),
        (with_database(in_recovery=True), ["MISCONFIGURED"]),
        (replace(WELL, kafka=KafkaSide(None)), ["CHECKPOINT_LOST"]),
        (replace(WELL, kafka=KafkaSide(None, problem="it does not exist")), ["CHECKPOINT_LOST"]),
        (with_database(database="other"), ["DIVERGED"]),
        (with_database(leader=None, slot=replace(SLOT, confirmed_flush=Lsn(950))), ["GAP"]),
        (with_database(slot=replace(SLOT, confirmed_flush=Lsn(950))), []),
        (replace(WELL, process=replace(LEADS, ready=False, reason="kafka unreachable", next="n")), ["NOT_READY"]),
    ],
)
def test_what_is_wrong_has_a_name(seen: Seen, expected: list[str]) -> None:
    assert names(seen) == expected


def test_a_halt_is_told_with_its_command_and_not_its_consequence() -> None:
    halted = ProcessSide("a:1", ready=False, reason="GAP", next="dovetail recover")
    found = verdict.findings_of(replace(with_database(leader=None), process=halted), verdict.lag_of(WELL), 60)
    assert [line.line() for line in found] == ["GAP: the relay has halted; next: dovetail recover"]


@pytest.mark.parametrize(
    ("seen", "remedy"),
    [
        (with_database(slot=None), "dovetail recover"),
        (
            replace(WELL, kafka=KafkaSide(None, problem="it is gone", missing=True)),
            "dovetail init, then dovetail recover",
        ),
        (replace(WELL, kafka=KafkaSide(None)), "dovetail recover"),
    ],
)
def test_what_is_gone_is_made_by_the_command_that_is_named(seen: Seen, remedy: str) -> None:
    (found,) = verdict.findings_of(seen, verdict.lag_of(seen), 60)
    assert found.next == remedy


def leader_line(seen: Seen) -> str:
    lag = verdict.lag_of(seen)
    halt = verdict.halt_in(seen, verdict.findings_of(seen, lag, 60))
    return next(line for line in report.as_lines(seen, lag, halt) if line.startswith("leader"))


@pytest.mark.parametrize(
    ("seen", "name", "next_command"),
    [
        (with_database(slot=None), "SLOT_LOST", "dovetail recover"),
        (with_database(slot=replace(SLOT, confirmed_flush=Lsn(950))), "GAP", "dovetail recover"),
        (replace(WELL, kafka=KafkaSide(None)), "CHECKPOINT_LOST", "dovetail recover"),
        (with_database(stuck=Stuck(1, 1, 1, "an-id", "schema")), "POISON_HELD", "dovetail stuck show an-id"),
    ],
)
def test_no_relay_is_advised_to_be_run_where_one_would_only_halt(seen: Seen, name: str, next_command: str) -> None:
    assert seen.database is not None
    alone = replace(seen, database=replace(seen.database, leader=None))
    assert names(alone) == [name]
    assert f"a relay that runs here halts ({name}); next: " in leader_line(alone)
    process = ProcessSide("a:1", ready=False, reason=name, next=next_command)
    halted = leader_line(replace(alone, process=process))
    assert halted.endswith(f"nobody leads: the relay has halted ({name}); next: {next_command}")


def test_the_leaders_pid_is_said_to_be_that_of_a_postgresql_backend() -> None:
    assert "PostgreSQL backend pid 1," in leader_line(WELL)
    assert "PostgreSQL backend pid 1;" in leader_line(with_database(leader=Leader(1, None, None, None)))


def test_the_message_that_halts_the_relay_is_named_before_those_that_wait() -> None:
    seen = with_database(stuck=Stuck(3, 2, 1, "an-id", "schema"))
    assert names(seen) == ["POISON_HELD"]
    assert names(with_database(stuck=Stuck(3, 2, 0))) == ["STUCK_MESSAGE"]
    (line,) = [line for line in report.as_lines(seen, verdict.lag_of(seen)) if line.startswith("stuck")]
    assert line.endswith("event an-id halts the relay; 3 messages wait in all; next: dovetail stuck show an-id")


def test_lag_beyond_the_limit_is_a_finding_and_at_the_limit_is_not() -> None:
    assert names(WELL, 12) == []
    assert names(WELL, 11.9) == ["LAGGING"]


def test_a_checkpoint_topic_is_only_missed_once_the_relay_has_started() -> None:
    assert names(replace(with_database(started=False), kafka=KafkaSide(None))) == []


METRICS = """
# HELP dovetail_relay_info 1
# TYPE dovetail_relay_info gauge
dovetail_relay_info{delivery="exactly_once",relay="r",slot="s"} 1.0
# TYPE dovetail_relay_leader gauge
dovetail_relay_leader 1.0
# TYPE dovetail_relay_lag_events gauge
dovetail_relay_lag_events 4.0
# TYPE dovetail_relay_lag_seconds gauge
dovetail_relay_lag_seconds NaN
"""


def test_a_relays_metrics_are_read_and_nan_is_unknown() -> None:
    found = process.read("a:1", b'{"ready": true, "role": "leader"}', METRICS, "r", "s")
    assert found is not None
    assert (found.leads, found.lag_events, found.lag_seconds, found.role) == (True, 4.0, None, "leader")


def test_another_relays_port_is_not_ours() -> None:
    assert process.read("a:1", b'{"ready": true}', METRICS, "r", "other") is None


@pytest.mark.parametrize("body", [b"[]", b"{}", b"nonsense", b'{"ready": 1}', b"\xff"])
def test_what_no_relay_says_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        process.read("a:1", body, METRICS, "r", "s")


@pytest.mark.parametrize(
    ("leaves", "events", "read"),
    [
        # rows above the horizon by day, from today back; None is an empty leaf
        ([0, 0, 5], 0, 2),
        ([3, 0, 2], 5, 3),
        ([3, 0, 0, 9], 3, 3),
        ([None, None, 4, 0, 1, 9], 5, 5),
        ([None] * 9, 0, 9),
    ],
)
def test_leaves_are_counted_from_today_back_until_a_settled_day_and_the_one_before(
    leaves: list[int | None], events: int, read: int
) -> None:
    asked = []

    def leaf(bucket: int) -> tuple[Rows, bool]:
        asked.append(bucket)
        found = leaves[len(asked) - 1]
        return Rows(found or 0, float(len(asked))), found is not None

    assert count_above(leaf, 20_000).events == events
    assert asked == [day % 9 for day in range(20_000, 20_000 - read, -1)]


def test_a_young_relay_is_measured_by_its_slots_snapshot() -> None:
    young = replace(CHECKPOINT, horizon=0)
    assert horizon_of(CHECKPOINT, "40:41:") == 50
    assert horizon_of(young, "40:41:") == 40
    assert horizon_of(young, None) == 0
    assert horizon_of(replace(young, backfill=3), "40:41:") == 0


def test_the_table_and_the_json_say_the_same_without_terminal_escapes() -> None:
    seen = with_database(leader=Leader(1, "evil\x1b[2J", "10.0.0.1", 0.5))
    lag = verdict.lag_of(seen)
    lines = "\n".join(report.as_lines(seen, lag))
    assert "\x1b" not in lines
    assert "evil\\x1b[2J" in lines
    whole = report.as_json(seen, lag, [])
    assert whole["ok"] is True
    assert whole["checkpoint"]["end_lsn"] == "0/384"
    assert whole["lag"]["source"] == "outbox"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (42, "42 s"), (600, "10 min"), (18_000, "5 h"), (259_200, "3 d")]
)
def test_spans_are_short(seconds: float, shown: str) -> None:
    assert report.span_text(seconds) == shown


def test_sizes_are_short() -> None:
    assert [report.size_text(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 kB", "5.0 GB"]
