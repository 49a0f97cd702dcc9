"""The simulation answers the relay's statements itself: it does what the SQL does, in whatever order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from simulation.database import Database, Transaction
from simulation.rows import ROWS, SILENT

from dovetail_local.endpoints import Endpoints
from dovetail_relay.nouns import Lsn, lsn_text, text_of
from dovetail_relay.source.lead import LockSession
from dovetail_schemas.sql import queries
from support.outbox_database import outbox_database
from support.roles import admit_logins

__all__ = ["outbox_database"]

RELAY = "r"
EACH = 4  # rows of one transaction
TRANSACTIONS = 6
KNOWN = [n for n in range(EACH * TRANSACTIONS) if n % SILENT != SILENT - 1]
PICKED = dict.fromkeys(("id", "key", "type", "class", "since", "until"))
NOTES = ("starts", "starts_at", "suspect_lsn", "suspect_index", "suspect_starts", "suspect_lived", "suspect_left")


@pytest.fixture
def session(outbox_database: Endpoints) -> Iterator[LockSession]:
    admit_logins(outbox_database)
    opened = LockSession(outbox_database.relay_dsn, slot=RELAY, relay=RELAY)
    yield opened
    opened.close()


class Both:
    """The same statement to a real server and to the simulated tables, and then a look at both."""

    def __init__(self, owner: psycopg.Connection[Any], session: LockSession, chance: random.Random) -> None:
        self._owner, self._session = owner, session
        self._chance = chance
        self._database = Database(chance.random, rows_before_slot=0)
        self._tables = self._database.tables
        self._began = lsn_text(Lsn(0)), lsn_text(Lsn(0))
        self._write_rows()

    def _write_rows(self) -> None:
        """Some of them are in the outbox no longer, and of the last transactions the snapshot knows nothing."""
        self.gone = frozenset(n for n in KNOWN if self._chance.random() < 0.1)
        seen = self._chance.randrange(TRANSACTIONS + 1)
        self._horizons = [(0, 0)]
        self._tables.change(gone=self.gone)
        self._owner.execute(
            "TRUNCATE dovetail.outbox, dovetail.parked, dovetail.relay, dovetail.recovery_seen, dovetail.command"
            " CASCADE"
        )
        for command, state in ((1, "done"), (2, "done"), (3, "withdrawn")):
            self._write_discard(command, state)
        self._owner.execute(
            "INSERT INTO dovetail.relay (name, slot, system_id, consistent_point, snapshot, epoch,"
            " publication_fingerprint) VALUES ('r', 'r', 'x', '0/0', '1:1:', 1, 'p')"
        )
        for nth in range(TRANSACTIONS + 1):
            if nth == seen:
                snapshot = self._owner.execute("SELECT pg_current_snapshot()::text").fetchone()
                self.snapshots = (str(snapshot and snapshot[0]), str(nth * EACH))
            if nth == TRANSACTIONS:
                break
            rows = list(range(nth * EACH, (nth + 1) * EACH))
            self._database.log.append(Transaction(Lsn(1000 + nth * 10), Lsn(1005 + nth * 10), rows, nth + 1))
            with self._owner.transaction():
                xid = self._owner.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
                self._horizons.append((xid[0] if xid else 0, nth + 1))
                for n in [n for n in rows if n in KNOWN and n not in self.gone]:
                    self._owner.execute(
                        "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
                        " VALUES (%s, 'order', %s, 'placed', '')",
                        (UUID(int=n), ROWS[n][2].decode()),
                    )

    def _write_discard(self, command: int, state: str) -> None:
        named = [n for n in KNOWN if self._chance.random() < 0.4]
        self._owner.execute(
            "INSERT INTO dovetail.command (id, relay, kind) OVERRIDING SYSTEM VALUE VALUES (%s, 'r', 'discard')",
            (command,),
        )
        self._owner.execute("UPDATE dovetail.command SET state = %s WHERE id = %s", (state, command))
        self._owner.execute(queries["stuck_named"], {"command": command, "ids": [UUID(int=n) for n in named]})
        self._tables.commands[command] = {
            "id": command, "kind": "discard", "state": state, "arguments": {"named": frozenset(named)}
        }  # fmt: skip

    def run(self, name: str, params: Mapping[str, Any], mine: Mapping[str, Any] | None = None) -> None:
        self._session.rows(queries[name], {"relay": RELAY, **params})
        self._tables.run(name, {"relay": RELAY, **params, **(mine or {})})
        real, simulated = self._real(), self._simulated()
        assert simulated == real, f"{name} {params}"

    def _real(self) -> list[Any]:
        parked = self._owner.execute(
            "SELECT id, epoch, commit_lsn::text, index, state, reason, command, step, discard"
            " FROM dovetail.parked ORDER BY seq"
        ).fetchall()
        row = self._owner.execute(f"SELECT {', '.join(NOTES)}, epoch, recovery_horizon FROM dovetail.relay").fetchone()
        assert row is not None
        return [parked, list(row[: len(NOTES)]), row[-2], row[-1] is None]

    def _simulated(self) -> list[Any]:
        names = ("state", "reason", "command", "step", "discard")
        rows = sorted(self._tables.parked.items())
        parked = [
            (UUID(int=row["n"]), row["epoch"], lsn_text(row["lsn"]), row["index"], *[row[name] for name in names])
            for _, row in rows
        ]
        notes, row = self._tables.notes, self._database.row
        return [parked, [notes[name] for name in NOTES], row.epoch, row.recovery_horizon is None]

    # -- statements ---------------------------------------------------------------------------------------------------

    def _some(self) -> tuple[list[int], list[int]]:
        """Some parked rows, by their numbers here and there."""
        found = [seq for (seq,) in self._owner.execute("SELECT seq FROM dovetail.parked ORDER BY seq").fetchall()]
        pairs = [pair for pair in zip(found, sorted(self._tables.parked), strict=True) if self._chance.random() < 0.3]
        return [one for one, _ in pairs], [other for _, other in pairs]

    def write(self) -> None:
        n, chance = self._chance.choice(KNOWN), self._chance
        row, stored = ROWS[n], chance.random() < 0.3
        self.run(
            "parked_write",
            {
                "epoch": self._database.row.epoch,
                "commit_lsn": "0/0" if stored else lsn_text(Lsn(1000 + n // EACH * 10)),
                "index": n if stored else n % EACH, "hold_topic": "orders", "hold_key": row[2],
                "reason": chance.choice(("behind", "refused", "crash")), "message": "m",
                "state": chance.choice(("parked", "parked", "parked", "halting", "dead_lettered")), "id": UUID(int=n),
                "aggregatetype": text_of(row[1]), "aggregateid": text_of(row[2]), "type": "placed", "payload": b"",
                "schema_fingerprint": None, "encoding": "avro", "headers": b"\x01{}", "created_us": 0,
            },
        )  # fmt: skip
        if chance.random() < 0.3:
            there = self._session.written_at()
            self._database.other_work()
            self._began = lsn_text(there), lsn_text(self._database.insert_lsn)

    def drop(self) -> None:
        chance = self._chance
        part = chance.random() < 0.5
        where = {
            "epoch": self._database.row.epoch,
            "end_lsn": lsn_text(Lsn(1000 + chance.randrange(70))),
            "backfill": chance.choice((None, chance.randrange(20))),
        }
        if chance.random() < 0.5:
            self.run("parked_drop_passed", where)
            return
        beyond = {
            "part_lsn": lsn_text(Lsn(1000 + chance.randrange(7) * 10 if part else 0)),
            "part_index": chance.randrange(4),
        }
        ever = lsn_text(Lsn(1 << 60))
        there, here = self._began if chance.random() < 0.5 else (ever, ever)
        self.run("parked_drop_beyond", {**where, **beyond, "parked_lsn": there}, {"parked_lsn": here})

    def mark(self) -> None:
        there, here = self._some()
        half = len(there) // 2
        step = {**PICKED, "upto": 0, "command": self._chance.randrange(1, 4), "step": self._chance.randrange(1, 4)}
        self.run(
            "desk_mark", {**step, "rows": there, "discarded": there[:half]}, {"rows": here, "discarded": here[:half]}
        )

    def settle(self) -> None:
        done = {"command": self._chance.randrange(4), "step": self._chance.randrange(4)}
        name = self._chance.choice(("desk_let_go", "desk_unmark", "desk_spare"))
        self.run(name, {**done, "backfill": self._chance.random() < 0.5} if name == "desk_unmark" else done)

    def condemn(self) -> None:
        self.run("desk_condemn", {"command": self._chance.randrange(1, 4)})

    def rebase(self) -> None:
        there, here = self._chance.choice(self._horizons)
        self.run(
            "recovery_rebase",
            {
                "system_id": "x", "consistent_point": "0/500", "snapshot": self.snapshots[0], "known_epoch": 0,
                "horizon": there, "command": None, "judge_again": self._chance.random() < 0.8,
            },
            {"snapshot": self.snapshots[1], "horizon": here},
        )  # fmt: skip
        self.missing(there, here)

    def recover(self) -> None:
        chance = self._chance
        self.run("recovery_forget", {})
        self.run("recovery_note", {"ids": [UUID(int=n) for n in KNOWN if chance.random() < 0.4], "strays": False})
        there, here = chance.choice(self._horizons)
        self.missing(there, here)
        self.run("recovery_doubt", {})
        if chance.random() < 0.5:
            self.run("recovery_over", {})

    def missing(self, there: int, here: int) -> None:
        asked = {"relay": RELAY, "horizon": there, "snapshot": self.snapshots[0]}
        found = self._owner.execute(
            "SELECT id FROM dovetail.unpublished(%(relay)s, %(horizon)s, %(snapshot)s) ORDER BY seq", asked
        ).fetchall()
        stands = replace(self._database.row, snapshot=self.snapshots[1], recovery_horizon=here)
        simulated = self._database.unpublished(stands, self._tables.seen, 0)
        assert [UUID(int=n) for n in simulated] == [event_id for (event_id,) in found]

    def ask(self) -> None:
        there, here = self._some()
        upto = (there[-1], here[-1]) if there else (0, 0)
        key = self._chance.choice((None, "a", "b"))
        asked = {
            **PICKED, "relay": RELAY, "command": self._chance.randrange(4), "key": key, "after": 0, "most": 9,
            "named": self._chance.random() < 0.5,
        }  # fmt: skip
        found = [
            [(UUID(bytes=bytes(row["id"])).int, row["chosen"], row["kept"]) for row in rows]
            for rows in (
                self._session.rows(queries["desk_queue"], {**asked, "upto": upto[0], "most_bytes": 1 << 20}),
                self._tables.run("desk_queue", {**asked, "upto": upto[1], "most_bytes": 1 << 20}),
            )
        ]
        assert found[1] == found[0]
        assert self._session.rows(queries["desk_absent"], asked) == self._tables.run("desk_absent", asked)
        stand = [
            sorted((row["commit_lsn"], row["index"], row["condemned"], row["feared"]) for row in rows)
            for rows in (
                self._session.rows(queries["parked_standing"], {"relay": RELAY}),
                self._tables.run("parked_standing", {"relay": RELAY}),
            )
        ]
        assert stand[1] == stand[0]

    def search(self) -> None:
        chance = self._chance
        self.run("relay_began", {"at": chance.choice("xy")})
        for _ in range(chance.randrange(3)):
            self.run("relay_suspects", {"lsn": "0/10", "nth": chance.randrange(2), "left": chance.randrange(9)})
            if chance.random() < 0.5:
                self.run("relay_lived", {})
        if chance.random() < 0.2:
            self.run("relay_acquitted", {})


STATEMENTS: tuple[Callable[[Both], None], ...] = (
    Both.write, Both.write, Both.write, Both.write, Both.write, Both.drop, Both.mark, Both.mark, Both.settle,
    Both.settle, Both.condemn, Both.rebase, Both.recover, Both.search, Both.ask,
)  # fmt: skip


def test_the_simulated_tables_do_what_the_sql_does(outbox_database: Endpoints, session: LockSession) -> None:
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as owner:
        for seed in range(30):
            chance = random.Random(seed)
            both = Both(owner, session, chance)
            for _ in range(40):
                chance.choice(STATEMENTS)(both)
