"""Who leads: two advisory locks on an ordinary session, and all that the leader reads and writes over it.

The lead lock says who may publish. The seat lock says who stands by warm. Nobody ever waits in `pg_advisory_lock`: a
blocked waiter pins xmin. Sessions end with their process, so a killed leader's lock is free as soon as the kernel has
closed its socket; a frozen one's is not, so its session must be touched within the lease or a standby ends it.

The leader writes to PostgreSQL over this session only: who has lost the lock can write nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from dovetail_relay.errors import Gap, LeadLost, Misconfigured, OutboxAltered, PostgresUnavailable, StreamEnded
from dovetail_relay.nouns import Lsn, OutboxTable, RelayRow, ServerFacts, lsn_text, parse_lsn
from dovetail_relay.source.publication import publication_fingerprint
from dovetail_relay.source.replication import SlotBusy, server_error
from dovetail_schemas.sql import queries

_LOCK_TIMEOUT = "55P03"
_XID_MASK = 0xFFFFFFFF
# SQLSTATEs of an object that is not there: init has not run, or not since this release.
_NOT_INITIALISED = {"42P01": "table", "3F000": "schema", "42703": "column"}


@dataclass(frozen=True, slots=True)
class Pulse:
    """What one touch of the lock session brought back."""

    xmin: int
    insert_lsn: Lsn
    slot_active: bool
    wal_status: str | None
    safe_wal_bytes: int
    retained_bytes: int
    confirmed_flush: Lsn


def lock_key(purpose: str, slot: str) -> int:
    """A 64-bit advisory lock key; the same for every replica of a relay."""
    digest = hashlib.sha256(f"dovetail.{purpose}.{slot}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def relay_row_of(row: Mapping[str, Any]) -> RelayRow:
    """What `relay_row` answered."""
    return RelayRow(
        name=row["name"],
        slot=row["slot"],
        system_id=row["system_id"],
        consistent_point=parse_lsn(row["consistent_point"]),
        snapshot=row["snapshot"],
        epoch=row["epoch"],
        publication_fingerprint=row["publication_fingerprint"],
        started=row["started"],
        recovery_horizon=row["recovery_horizon"],
        recovery_command=row["recovery_command"],
    )


def server_facts_of(row: Mapping[str, Any], system_id: str, timeline: int, fingerprint: str | None) -> ServerFacts:
    """What `relay_server_facts` answered, with what was asked elsewhere."""
    return ServerFacts(
        system_id=system_id,
        timeline=timeline,
        database=row["database"],
        in_recovery=row["in_recovery"],
        wal_lsn=parse_lsn(row["wal_lsn"]),
        slot_found=row["slot_found"],
        slot_plugin=row["plugin"],
        slot_database=row["slot_database"],
        slot_lost=row["slot_lost"],
        slot_temporary=row["slot_temporary"],
        confirmed_flush=parse_lsn(row["confirmed_flush"]),
        publication_fingerprint=fingerprint,
    )


class LockSession:
    """The ordinary session that carries the locks. Not thread-safe: the relay's loop owns it."""

    def __init__(self, conninfo: str, *, slot: str, relay: str) -> None:
        self._slot = slot
        self._relay = relay
        self._lead_key = lock_key("lead", slot)
        self._seat_key = lock_key("seat", slot)
        self.leads = False
        try:
            self._connection = psycopg.connect(conninfo, autocommit=True)
            # Kafka is told to go on because of what is written here: a parked row, the mark of a command's step.
            self._connection.execute(queries["session_durable"])
            self._connection.execute(queries["session_impatient"])
        except psycopg.Error as error:
            raise server_error(error, "PostgreSQL") from error

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """For the few statements that rooms above send over the leader's session."""
        return self._connection

    def fileno(self) -> int:
        """The socket: readable while idle means that the server has something to say, such as its shutdown.

        Raises as `pulse` does where the session is gone.
        """
        try:
            return self._connection.fileno()
        except psycopg.Error as error:
            gone = server_error(error, "PostgreSQL")
            raise self._lost(gone) if self.leads else gone from error

    def try_lead(self) -> bool:
        """Take the lead if it is free."""
        self.leads = self.leads or self._try(self._lead_key)
        return self.leads

    def try_seat(self) -> bool:
        """Take the warm standby's seat if it is free."""
        return self._try(self._seat_key)

    def leave_seat(self) -> None:
        """The leader leaves the seat to the next standby."""
        self.rows("SELECT pg_advisory_unlock(%(key)s::bigint)", {"key": self._seat_key})

    def evict_frozen(self, lease_seconds: float) -> list[int]:
        """End a leader that has not touched its session for a lease; the pids of the ended sessions."""
        found = self.rows(
            queries["relay_evict_frozen"], {"key": self._lead_key, "slot": self._slot, "lease": lease_seconds}
        )
        return [row["pid"] for row in found]

    def free_slot(self) -> list[int]:
        """End a zombie's walsender. Only for the leader.

        Raises SlotBusy, with who it is and what to type, where this role may not end it: it is no relay of ours then.
        """
        try:
            return [row["pid"] for row in self.rows(queries["relay_free_slot"], {"slot": self._slot})]
        except Misconfigured:
            holders = self.rows(queries["relay_slot_holder"], {"slot": self._slot})
            if not holders:
                return []
            pid, role, application = holders[0].values()
            raise SlotBusy(
                f"slot {self._slot!r} is held by pid {pid} of user {role!r}, application {application[:80]!r}, which "
                "this role may not end",
                remedy=f"SELECT pg_terminate_backend({pid}), as a superuser, if nobody needs it",
            ) from None

    def pulse(self) -> Pulse:
        """Touch the session. Raises LeadLost where it is gone: the lock went with it."""
        try:
            row = self.rows(queries["relay_pulse"], {"slot": self._slot})[0]
        except Exception as error:
            if self.leads:
                raise self._lost(error) from error
            raise
        return Pulse(
            xmin=row["xmin"],
            insert_lsn=parse_lsn(row["insert_lsn"]),
            slot_active=bool(row["active"]),
            wal_status=row["wal_status"],
            safe_wal_bytes=row["safe_wal_size"],
            retained_bytes=row["retained_bytes"],
            confirmed_flush=parse_lsn(row["confirmed_flush"]),
        )

    def check_stream(self, start: Lsn) -> None:
        """Whether the stream that was just opened at `start` is what it seems. Raises Gap and StreamEnded.

        START_REPLICATION below what the slot has confirmed is forwarded silently. Now that the slot is ours nobody can
        move it: whoever did while it was free, before the admission or in a Kafka outage, is seen here. And so is a
        stream from another server than that of the lock, where a DSN of several hosts leads to two primaries.
        """
        pulse = self.pulse()
        if not pulse.slot_active:
            raise StreamEnded(f"slot {self._slot!r} does not stream on the server that gave the lock")
        if pulse.confirmed_flush > start:
            raise Gap(
                f"slot {self._slot} is confirmed at {lsn_text(pulse.confirmed_flush)}, "
                f"the checkpoint stands at {lsn_text(start)}"
            )

    def relay_row(self) -> RelayRow:
        """What init wrote; raises Misconfigured where init has not run."""
        rows = self.rows(queries["relay_row"], {"relay": self._relay})
        if not rows:
            raise Misconfigured(f"database has no relay {self._relay!r}", remedy="dovetail init")
        row = rows[0]
        if row["slot"] != self._slot:
            raise Misconfigured(f"relay {self._relay!r} was set up with slot {row['slot']!r}, not {self._slot!r}")
        return relay_row_of(row)

    def outbox_tables(self, schema: str, table: str, publication: str) -> tuple[OutboxTable, ...]:
        """The outbox table and its leaves. Raises OutboxAltered where there is no table of that name."""
        asked = {"schema": schema, "table": table, "publication": publication}
        found = self.rows(queries["relay_outbox_tables"], asked)
        if not found:
            raise OutboxAltered(f"there is no table {schema}.{table}; give it its name back")
        return tuple(
            OutboxTable(
                row["oid"].to_bytes(4, "big"),
                row["schema"],
                row["name"],
                tuple(zip(row["names"], row["types"], strict=True)),
            )
            for row in found
        )

    def partition_counts(self) -> dict[str, int]:
        """Partitions per topic as init or `relay accept` recorded them."""
        rows = self.rows(queries["relay_row"], {"relay": self._relay})
        return dict(rows[0]["partition_counts"]) if rows else {}

    def publication_fingerprint(self, publication: str) -> str | None:
        """What the publication is now; None where it is gone."""
        try:
            return publication_fingerprint(self._connection, publication)
        except LookupError:
            return None
        except psycopg.Error as error:
            raise server_error(error, "PostgreSQL") from error

    def server_facts(self, system_id: str, timeline: int, publication: str) -> ServerFacts:
        """What admission needs to know, `system_id` and `timeline` from the replication connection."""
        row = self.rows(queries["relay_server_facts"], {"slot": self._slot})[0]
        return server_facts_of(row, system_id, timeline, self.publication_fingerprint(publication))

    def promise_messages(self) -> None:
        """From here on the SDK lets services write logical messages: whatever is written now streams to us."""
        self.rows(queries["setup_store_messages"], {"relay": self._relay, "messages": True})

    def messages_promised(self) -> bool:
        """Whether services were told that logical messages are read here."""
        rows = self.rows(queries["setup_messages"], {"relay": self._relay})
        return bool(rows and rows[0]["messages"])

    def audit_head(self, known: tuple[int, str] | None) -> tuple[int, str] | None:
        """Number and hash of the newest entry of the audit log; None where `known` is not in it any more."""
        rows = self.rows(queries["audit_head"], {"known": 0 if known is None else known[0]})
        if known is not None and (not rows or rows[0]["known_hash"] != known[1]):
            return None
        return (rows[0]["seq"], rows[0]["hash"]) if rows else None

    def written_at(self) -> Lsn:
        """The log's position behind all that this session has written: what a promoted server must have."""
        return parse_lsn(self.rows(queries["parked_written_at"], {})[0]["lsn"])

    def has_ended(self, xid: int) -> bool:
        """Whether others see what transaction `xid` did, 32 bits of its id: it may stream earlier than that."""
        _xmin, xmax, running = self.rows(queries["setup_snapshot"], {})[0]["snapshot"].split(":")
        ahead = (xid - int(xmax)) & _XID_MASK
        return ahead > _XID_MASK >> 1 and xid not in {int(each) & _XID_MASK for each in running.split(",") if each}

    def newest_time(self) -> int:
        """Behind which no event of the outbox is dated yet, in whole seconds since 1970 by the server's clock.

        Where a second is not enough to tell, in a large table without a summary of its times, the clock alone.
        """
        now = int(self.rows(queries["relay_clock"], {})[0]["seconds"])
        with suppress(PostgresUnavailable, psycopg.Error), self._connection.transaction():
            self.rows(queries["ring_quickly"], {})
            return max(now, int(self.rows(queries["relay_dated_ahead"], {})[0]["seconds"]))
        return now

    def mark_started(self) -> None:
        """From now on an empty checkpoint topic is CHECKPOINT_LOST."""
        self.rows(queries["relay_mark_started"], {"relay": self._relay})

    def listen(self, channel: LiteralString) -> None:
        """Have the server speak up on this session when somebody notifies `channel`; the next pulse takes it in."""
        self._connection.add_notify_handler(lambda _notify: None)
        self.rows(f"LISTEN {channel}", {})

    def close(self) -> None:
        """Give up both locks with the session."""
        self.leads = False
        self._connection.close()

    @staticmethod
    def _lost(error: Exception) -> LeadLost:
        return LeadLost(f"the lock session is gone: {error}")

    def _try(self, key: int) -> bool:
        return bool(self.rows(queries["relay_try_lock"], {"key": key})[0]["locked"])

    def rows(self, query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        """One statement over this session, for the rooms that keep something in the database. Raises a named error."""
        try:
            cursor = self._connection.cursor(row_factory=dict_row)
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if error.sqlstate in _NOT_INITIALISED:
                what = _NOT_INITIALISED[error.sqlstate]
                raise Misconfigured(
                    f"this database lacks a {what} that the relay needs: init has not run, or not since this release",
                    remedy="dovetail init",
                ) from error
            raise self.refusal(error, "PostgreSQL") from error

    def refusal(self, error: psycopg.Error, what: str) -> Exception:
        """The named error for a statement of this session; says who is in the way where it waited for a lock."""
        if error.sqlstate == _LOCK_TIMEOUT and not self._connection.closed:
            with suppress(psycopg.Error):
                cursor = self._connection.cursor(row_factory=dict_row)
                holder = cursor.execute(queries["relay_table_holder"]).fetchone()
                if holder is not None:
                    who = f"pid {holder['pid']} of user {holder['role']!r}, application {holder['application'][:80]!r}"
                    return PostgresUnavailable(
                        f"{holder['relation']} is locked by {who}, and the relay waits for it",
                        remedy=f"wait for it, or SELECT pg_terminate_backend({holder['pid']}), as a superuser",
                    )
        return server_error(error, what)
