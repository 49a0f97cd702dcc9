"""The PostgreSQL server: version, settings, room for one more slot, and what holds it back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dovetail_relay.config import Settings
from dovetail_relay.setup.connect import Session, one, rows
from dovetail_relay.setup.findings import Finding, judge, ok
from dovetail_relay.setup.slot import FAILOVER_SINCE, slot_facts
from dovetail_schemas.sql import queries

OLDEST, NEWEST = 15, 18

# Certificates and the time header are read by people and machines that compare clocks; seconds are normal, more is not.
_CLOCK_SECONDS = 5.0
# A transaction open for longer holds back vacuum and, for a new slot, everything.
_OLD_TRANSACTION_SECONDS = 900.0
_OLD_PREPARED_SECONDS = 300.0

_SETTINGS = (
    "wal_level", "max_replication_slots", "max_wal_senders", "max_slot_wal_keep_size", "idle_replication_slot_timeout",
    "wal_sender_timeout", "output_plugin_libraries", "fsync", "synchronous_commit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """What the checks look at, read once."""

    connection: Session
    settings: Settings
    facts: Mapping[str, Any]
    gucs: Mapping[str, str]
    units: Mapping[str, str]
    slot: Mapping[str, Any] | None


def look(connection: Session, settings: Settings) -> Server:
    """Read the server's settings, the session's facts and the slot."""
    found = rows(connection, queries["setup_settings"], {"names": list(_SETTINGS)})
    return Server(
        connection=connection,
        settings=settings,
        facts=one(connection, queries["setup_session"]) or {},
        gucs={row["name"]: row["setting"] for row in found},
        units={row["name"]: row["unit"] or "" for row in found},
        slot=slot_facts(connection, settings.relay.slot),
    )


def version(server: Server) -> Iterator[Finding]:
    """15 to 18."""
    major = server.facts["version"] // 10000
    yield judge(
        "postgres.version",
        good=OLDEST <= major <= NEWEST,
        found=f"{major}.{server.facts['version'] % 10000}",
        wanted=f"{OLDEST} to {NEWEST}",
        remedy="upgrade PostgreSQL" if major < OLDEST else "this release was not tested with it",
        otherwise="fail" if major < OLDEST else "warn",
    )
    yield judge(
        "postgres.primary",
        good=not server.facts["in_recovery"],
        found="a standby" if server.facts["in_recovery"] else "a primary",
        wanted="the primary",
        remedy="set postgres.dsn to the primary",
    )


def wal(server: Server) -> Iterator[Finding]:
    """What logical decoding needs of the server."""
    level = server.gucs["wal_level"]
    yield judge(
        "postgres.wal_level",
        good=level == "logical",
        found=level,
        wanted="logical",
        remedy="ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL"
        " (RDS: rds.logical_replication = 1; Cloud SQL: cloudsql.logical_decoding = on)",
    )
    if (libraries := server.gucs.get("output_plugin_libraries")) is not None:
        names = [name.strip().strip('"') for name in libraries.split(",")]
        yield judge(
            "postgres.output_plugin_libraries",
            good="pgoutput" in names or "*" in names,
            found=libraries or "(empty)",
            wanted="pgoutput among them",
            remedy="ALTER SYSTEM SET output_plugin_libraries = 'pgoutput'; SELECT pg_reload_conf()",
        )
    yield judge(
        "postgres.fsync",
        good=server.gucs["fsync"] == "on",
        found=server.gucs["fsync"],
        wanted="on: a crash of the machine may undo a commit that was published",
        remedy="ALTER SYSTEM SET fsync = 'on'; SELECT pg_reload_conf()",
        otherwise="warn",
    )


def room(server: Server) -> Iterator[Finding]:
    """A slot and a walsender for the relay."""
    used = one(server.connection, queries["setup_slots_in_use"]) or {}
    streaming = bool(server.slot and server.slot["active"])
    for name, taken, ours in (
        ("max_replication_slots", used["slots"], server.slot is not None),
        ("max_wal_senders", used["walsenders"], streaming),
    ):
        limit = int(server.gucs[name])
        yield judge(
            f"postgres.{name}",
            good=ours or taken < limit,
            found=f"{taken} of {limit} taken" + (", one of them ours" if ours else ""),
            wanted="one free for the relay",
            remedy=f"ALTER SYSTEM SET {name} = {limit + 4}; then restart PostgreSQL",
        )


def retention(server: Server) -> Iterator[Finding]:
    """How much WAL a stopped relay may hold back, and when the server gives up on it."""
    keep = int(server.gucs["max_slot_wal_keep_size"])
    accepted = keep < 0 and server.settings.postgres.accept_unbounded_wal
    yield judge(
        "postgres.max_slot_wal_keep_size",
        good=keep > 0 or accepted,
        found=("unbounded" if keep < 0 else f"{keep} MB") + (", which is accepted" if accepted else ""),
        wanted="bounded: a relay that is down for long would fill the database's disk"
        if keep < 0 else "room for the longest outage",
        remedy="ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()"
        " (about half of the free disk; beyond it: dovetail recover), or set postgres.accept_unbounded_wal = true",
    )  # fmt: skip
    idle = server.gucs.get("idle_replication_slot_timeout")
    if idle is not None:
        yield judge(
            "postgres.idle_replication_slot_timeout",
            good=int(idle) == 0,
            found="off" if int(idle) == 0 else f"{idle} {server.units['idle_replication_slot_timeout']}".strip(),
            wanted="0: a slot whose relay is down for longer is invalidated",
            remedy="ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
            otherwise="warn",
        )
    timeout = int(server.gucs["wal_sender_timeout"])
    yield judge(
        "postgres.wal_sender_timeout",
        good=timeout > 0,
        found=f"{timeout} ms" if timeout else "off",
        wanted="more than 0: the server never notices that a relay's machine is gone, and keeps its slot busy",
        remedy="ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf()",
        otherwise="warn",
    )


def failover(server: Server) -> Iterator[Finding]:
    """From PostgreSQL 17 a slot can survive the loss of the primary."""
    if server.facts["version"] < FAILOVER_SINCE or server.slot is None:
        return
    yield judge(
        "postgres.slot_failover",
        good=bool(server.slot.get("failover")),
        found="the slot is synchronised to standbys that ask for it" if server.slot.get("failover") else "off",
        wanted="on: without it a failover loses the slot",
        remedy=f"ALTER_REPLICATION_SLOT {server.settings.relay.slot} (FAILOVER true), on a replication connection"
        " while the relay is stopped; on each standby sync_replication_slots = on, hot_standby_feedback = on",
        otherwise="warn",
    )
    standbys = rows(server.connection, queries["setup_physical_slots"])
    awaited = rows(server.connection, queries["observe_awaited_standbys"], {"slot": server.settings.relay.slot})
    missing = ", ".join(row["name"] for row in awaited if not row["exists"])
    if missing:
        yield Finding(
            "postgres.synchronized_standby_slots",
            "fail",
            f"names {missing}, and this server has no such slot: no event is sent until it has",
            "the slots of this server's standbys",
            "ALTER SYSTEM SET synchronized_standby_slots = ''; SELECT pg_reload_conf()"
            " (or make the slot and let a standby use it: SELECT pg_create_physical_replication_slot(…))",
        )
    elif standbys and server.slot.get("failover"):
        waits_for = {row["name"] for row in awaited}
        away = ", ".join(row["name"] for row in awaited if not row["active"])
        names = ", ".join(row["slot_name"] for row in standbys)
        yield judge(
            "postgres.synchronized_standby_slots",
            good=bool(waits_for) and not away,
            found=f"no standby uses {away}: events wait for it" if away
            else ", ".join(sorted(waits_for)) or f"empty, although there are standbys: {names}",
            wanted="the slots of the standbys that may be promoted: else the relay can be ahead of the new primary",
            remedy="start that standby, or take it from synchronized_standby_slots" if away
            else f"ALTER SYSTEM SET synchronized_standby_slots = '{standbys[0]['slot_name']}';"
            " SELECT pg_reload_conf() (events then wait while that standby is down)",
            otherwise="warn",
        )  # fmt: skip


def horizon(server: Server) -> Iterator[Finding]:
    """Old transactions, prepared or open: they hold back WAL, vacuum, recovery and the making of slots."""
    old = [
        row for row in rows(server.connection, queries["setup_prepared"]) if row["age_seconds"] > _OLD_PREPARED_SECONDS
    ]
    yield judge(
        "postgres.prepared_transactions",
        good=not old,
        found=f"{len(old)} older than {_OLD_PREPARED_SECONDS:.0f} s, the oldest {old[0]['gid']!r} of {old[0]['owner']}"
        f" in {old[0]['database']}" if old else "none is old",
        wanted="none left open: WAL is kept for it",
        remedy="COMMIT PREPARED or ROLLBACK PREPARED it",
        otherwise="warn",
    )  # fmt: skip
    long = rows(server.connection, queries["setup_old_transactions"], {"seconds": _OLD_TRANSACTION_SECONDS})
    yield judge(
        "postgres.long_transactions",
        good=not long,
        found=f"pid {long[0]['pid']} of {long[0]['role']} ({long[0]['state']}) for {long[0]['age_seconds']:.0f} s"
        if long else "none that this role can see (GRANT pg_read_all_stats shows all)",
        wanted=f"none older than {_OLD_TRANSACTION_SECONDS:.0f} s",
        remedy=f"SELECT pg_terminate_backend({long[0]['pid']}), if nobody needs it" if long else "",
        otherwise="warn",
    )  # fmt: skip


def clock(server: Server) -> Iterator[Finding]:
    """Whether this machine and the server agree on the time."""
    before = dt.datetime.now(dt.UTC)
    theirs = (one(server.connection, queries["setup_clock"]) or {})["now"]
    after = dt.datetime.now(dt.UTC)
    apart = max((before - theirs).total_seconds(), (theirs - after).total_seconds(), 0.0)
    yield judge(
        "postgres.clock",
        good=apart <= _CLOCK_SECONDS,
        found=f"{apart:.0f} s apart from this machine" if apart >= 1 else "within a second of this machine",
        wanted=f"at most {_CLOCK_SECONDS:.0f} s apart",
        remedy="set both clocks by NTP",
        otherwise="warn",
    )


def tls(server: Server) -> Iterator[Finding]:
    """Whether the wire is open."""
    row = one(server.connection, queries["setup_tls"]) or {}
    if row.get("ssl"):
        yield ok("postgres.tls", row["version"])
    elif server.settings.postgres.insecure:
        yield Finding(
            "postgres.tls",
            "warn",
            "off, postgres.insecure = true",
            "on",
            "set sslmode=verify-full and sslrootcert in the DSN",
        )
    else:
        yield ok("postgres.tls", "not needed: the server is on this machine")


CHECKS = (version, wal, room, retention, failover, horizon, clock, tls)
