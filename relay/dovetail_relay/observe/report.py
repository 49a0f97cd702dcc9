"""One look at a relay, as lines for a person and as one JSON object for a script. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any, Final

from dovetail_relay.nouns import Checkpoint, Lsn, lsn_text
from dovetail_relay.observe.database import COUNTED_MOST
from dovetail_relay.observe.facts import DatabaseSide, Finding, KafkaSide, Lag, Leader, Seen, Slot, Underway
from dovetail_relay.observe.held import Held
from dovetail_relay.observe.held import line as held_line
from dovetail_relay.observe.printable import printable

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_SOURCES: Final = {
    "relay": "the relay's own count of what it has read",
    "outbox": "rows above the checkpoint's horizon; some of them may be published",
    "positions": "the checkpoint is at the end of the WAL",
    "unknown": "neither the relay nor the checkpoint tells",
}


def as_json(seen: Seen, lag: Lag, findings: Sequence[Finding]) -> dict[str, Any]:
    """Every fact under a stable name; what is not known is null."""
    database, kafka, process = seen.database, seen.kafka, seen.process
    return {
        "relay": seen.relay,
        "ok": not findings and not seen.errors,
        "leader": None if database is None or database.leader is None else asdict(database.leader),
        "slot": {"name": seen.slot, **_slot_json(None if database is None else database.slot)},
        "postgres": None if database is None else _database_json(database),
        "checkpoint": None if kafka is None or kafka.checkpoint is None else _checkpoint_json(kafka, kafka.checkpoint),
        "lag": asdict(lag),
        "stuck": None if database is None or database.stuck is None else asdict(database.stuck),
        "commands": []
        if database is None
        else [{**asdict(one), "created_at": one.created_at.isoformat()} for one in database.commands],
        "process": None if process is None else {**asdict(process), "halted": process.halted},
        "problems": [asdict(finding) for finding in findings],
        "unreachable": dict(seen.errors),
    }


def as_lines(seen: Seen, lag: Lag, halt: Finding | None = None) -> list[str]:
    """The same for a person, one fact per line. `halt` is the one that a relay here is in."""
    return in_columns(
        [
            ("relay", _relay(seen)),
            ("leader", _leader(seen, halt)),
            ("slot", _slot(seen)),
            ("checkpoint", _checkpoint(seen)),
            ("lag", _lag(lag)),
            ("stuck", _stuck(seen)),
            ("postgres", _postgres(seen)),
            ("process", _process(seen)),
            ("books", _books(seen)),
            *(("command", _command(command)) for command in (seen.database.commands if seen.database else ())),
        ]
    )


def trace_lines(report: dict[str, Any], held: Held | None = None) -> list[str]:
    """Where an event is, for a person."""
    consumed = report["consumed"]
    rows = [("event", f"{report['id']}: {report['state'].replace('_', ' ')}"), ("written", _written(report))]
    if held is not None and not report["records"]:
        rows.append(("held", held_line(held)))
    rows += [("published", text) for text in _published(report)]
    if consumed is None:
        rows.append(("consumed", "unknown: PostgreSQL could not be asked"))
    elif not consumed:
        rows.append(("consumed", "no inbox of this database has it"))
    rows += [("consumed", f"{taken['consumer']} at {taken['received_at']}") for taken in consumed or ()]
    return in_columns(rows)


def _written(report: dict[str, Any]) -> str:
    written = report["written"]
    if written is not None:
        what = f"{written['type']}, key {written['key']}, {written['aggregatetype']}"
        where = f"bucket {_known(written['bucket'])}, transaction {_known(written['xid'])}"
        return f"{_known(written['created_at'])} as {what}, {where}"
    if report["consumed"] is None:
        return "unknown: PostgreSQL could not be asked"
    why = "older than it keeps, deleted since, a logical message, or of a database that was restored"
    return f"no row in the outbox ({why})"


def _published(report: dict[str, Any]) -> list[str]:
    searched = report["searched"]
    if report["records"]:
        return [_record(record) for record in report["records"]]
    if searched is None:
        return ["unknown: Kafka could not be asked"]
    where = ", ".join(searched["topics"]) or "no topic"
    said = "not yet, or not found" if report["held"] is None else "no"
    return [f"{said}: {where}, {searched['records']} records read"]


def _record(record: dict[str, Any]) -> str:
    place = f"{record['topic']}[{record['partition']}]@{record['offset']}"
    when = f"at {_known(record['time'])}, position {_known(record['position'])}"
    return f"{place} {when}" + (", a replay" if record["replay"] else "")


def in_columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    """`name  value`, safe for a terminal."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {printable(value)}" for name, value in rows]


def size_text(count: int) -> str:
    """`16.0 MB`; powers of 1024, as PostgreSQL shows them."""
    size = float(count)
    for unit in _UNITS:
        if abs(size) < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def span_text(seconds: float) -> str:
    """`0.3 s`, `42 s`, `7 min`, `5 h`, `3 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _relay(seen: Seen) -> str:
    if seen.database is None:
        return seen.relay
    if seen.database.epoch is None:
        return f"{seen.relay}: not in database {seen.database.database}"
    started = "started" if seen.database.started else "never started"
    return f"{seen.relay} on database {seen.database.database}, epoch {seen.database.epoch}, {started}"


def _leader(seen: Seen, halt: Finding | None) -> str:
    if seen.database is None:
        process = seen.process
        return f"unknown; {process.address} says that it leads" if process is not None and process.leads else "unknown"
    if seen.database.leader is not None:
        return _leader_text(seen.database.leader)
    if halt is None:
        return "nobody leads; next: dovetail relay run"
    process = seen.process
    who = "the relay has halted" if process is not None and process.halted else "a relay that runs here halts"
    return f"nobody leads: {who} ({halt.name}); next: {halt.next}"


def _leader_text(leader: Leader) -> str:
    name = leader.application_name or "a session of another role"
    # Not the relay's own process, which may be on another machine: whoever kills that pid ends the session only.
    backend = f"PostgreSQL backend pid {leader.pid}"
    if leader.idle_seconds is None:
        return f"{name}, {backend}; its address and activity show after GRANT pg_read_all_stats to this login"
    idle = f"last heard of {span_text(max(0.0, leader.idle_seconds))} ago"
    return f"{name} from {leader.address or 'a local socket'}, {backend}, {idle}"


def _slot(seen: Seen) -> str:
    if seen.database is None:
        return f"{seen.slot}: unknown"
    slot = seen.database.slot
    if slot is None:
        return f"{seen.slot}: does not exist"
    retained = "retains nothing" if slot.retained_bytes is None else f"retains {size_text(slot.retained_bytes)}"
    safe = "no limit" if slot.safe_wal_bytes is None else f"{size_text(slot.safe_wal_bytes)} until it is lost"
    return (
        f"{seen.slot}: {'active' if slot.active else 'not active'}, {_known(slot.wal_status)}, {retained}, {safe}, "
        f"confirmed {lsn_text(slot.confirmed_flush)}"
    )


def _checkpoint(seen: Seen) -> str:
    if seen.kafka is None:
        return "unknown"
    found = seen.kafka.checkpoint
    if found is None:
        return seen.kafka.problem or "none yet"
    part = "" if found.part is None else f" and {found.part.next_index} rows of {lsn_text(found.part.commit_lsn)}"
    filling = "" if found.backfill is None else f", older rows from seq {found.backfill}"
    age = "" if seen.kafka.age_seconds is None else f", {span_text(seen.kafka.age_seconds)} old"
    return f"seq {found.seq} at {lsn_text(found.end_lsn)}{part}{filling}{age}, written by {found.writer or 'init'}"


def _lag(lag: Lag) -> str:
    if lag.events is None:
        return f"unknown{_bytes(lag)} ({_SOURCES[lag.source]})"
    limit = "at most " if lag.at_most else ""
    more = " or more" if lag.source == "outbox" and lag.events >= COUNTED_MOST else ""
    seconds = "" if lag.seconds is None else f", {limit}{span_text(lag.seconds)}"
    bound = "" if lag.bound is None else f"; at most {lag.bound} by the outbox"
    noun = "event" if lag.events == 1 and not more else "events"
    return f"{limit}{lag.events}{more} {noun}{seconds}{_bytes(lag)} ({_SOURCES[lag.source]}{bound})"


def _stuck(seen: Seen) -> str:
    stuck = None if seen.database is None else seen.database.stuck
    if stuck is None:
        return "unknown"
    if not stuck.messages:
        return "nothing"
    more = " or more" if stuck.messages >= COUNTED_MOST else ""
    if stuck.halting is not None:
        others = "" if stuck.messages == 1 else f"; {stuck.messages}{more} messages wait in all"
        return f"event {stuck.halting} halts the relay{others}; next: dovetail stuck show {stuck.halting}"
    return f"{stuck.messages}{more} messages of {stuck.keys} keys wait; next: dovetail stuck list"


def _bytes(lag: Lag) -> str:
    return "" if lag.bytes is None else f", {size_text(lag.bytes)} of WAL"


def _postgres(seen: Seen) -> str:
    if seen.database is None:
        return seen.errors.get("postgres", "not asked")
    what = "a standby, " if seen.database.in_recovery else ""
    more = "".join(f"; {problem}" for problem in seen.database.problems)
    timeline = "" if seen.database.timeline is None else f", timeline {seen.database.timeline}"
    return f"{what}WAL at {lsn_text(seen.database.wal_lsn)}{timeline}{more}"


def _process(seen: Seen) -> str:
    process = seen.process
    if process is None:
        where = seen.process_address
        return f"no process of this relay answers at {where}" if where else "its port is not known"
    if process.ready:
        return f"{process.address} is ready as {process.role or 'relay'}"
    return f"{process.address} is not ready: {process.reason or 'it does not say why'}"


def _command(command: Underway) -> str:
    since = command.created_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    waits = "; it goes on only when told to, and others wait for it" if command.state == "paused" else ""
    asked = f"{command.id} ({command.kind}) of {command.actor}, asked for {since}"
    return f"{asked}, {command.state}{waits}; next: {command.next}"


def _books(seen: Seen) -> str:
    balanced = None if seen.process is None else seen.process.books_balanced
    if balanced is None:
        return "not known yet: the leader compares them from its first event on"
    return "balanced" if balanced else "not balanced"


def _slot_json(slot: Slot | None) -> dict[str, Any]:
    if slot is None:
        return {}
    return {**asdict(slot), "confirmed_flush": lsn_text(slot.confirmed_flush)}


def _database_json(side: DatabaseSide) -> dict[str, Any]:
    return {
        "database": side.database,
        "in_recovery": side.in_recovery,
        "timeline": side.timeline,
        "wal_lsn": lsn_text(Lsn(side.wal_lsn)),
        "epoch": side.epoch,
        "started": side.started,
        "notes": list(side.problems),
    }


def _checkpoint_json(side: KafkaSide, found: Checkpoint) -> dict[str, Any]:
    part = found.part
    return {
        "seq": found.seq,
        "epoch": found.epoch,
        "writer": found.writer,
        "timeline": found.timeline,
        "end_lsn": lsn_text(found.end_lsn),
        "part": None if part is None else {"commit_lsn": lsn_text(part.commit_lsn), "next_index": part.next_index},
        "backfill": found.backfill,
        "horizon": found.horizon,
        "age_seconds": side.age_seconds,
    }


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)
