"""`dovetail.parked` under SQL: what lies beyond a checkpoint goes, what a command has begun it ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail_local.endpoints import Endpoints
from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import Checkpoint, Lsn, Parked, ParkedState, Part, Place
from dovetail_relay.parking import Parking
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.parked import ParkedRows
from dovetail_schemas.sql import queries
from support.installation import settings_of
from support.outbox_database import outbox_database
from support.roles import admit_logins

__all__ = ["outbox_database"]

AT = Checkpoint(
    epoch=2, seq=1, writer="w", system_id="1", timeline=1, database="d", slot="s", end_lsn=Lsn(1000),
    part=Part(Lsn(1000), 3),
)  # fmt: skip


@pytest.fixture
def session(outbox_database: Endpoints) -> Iterator[LockSession]:
    admit_logins(outbox_database)
    wanted = settings_of(outbox_database).relay
    opened = LockSession(outbox_database.relay_dsn, slot=wanted.slot, relay=wanted.name)
    yield opened
    opened.close()


@pytest.fixture
def rows(session: LockSession) -> ParkedRows:
    return ParkedRows(session, "r")


def parked(lsn: int, nth: int, state: ParkedState = ParkedState.PARKED, key: bytes = b"k") -> Parked:
    row = (bytes(16), b"a", key, b"T", b"", None, b"avro", None, 0)
    return Parked(Place(Lsn(lsn), nth), ("T", key), "schema", "m", state, row)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    aggregatetype=st.one_of(st.text(), st.binary(), st.text(min_size=3000, max_size=3100)),
    key=st.one_of(st.binary(), st.binary(min_size=5000, max_size=6000)),
    kind=st.one_of(st.text(), st.binary()),
    headers=st.binary(),
    said=st.text(st.characters()),
    created=st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_a_row_holds_it_can_be_parked(
    rows: ParkedRows, aggregatetype: str | bytes, key: bytes, kind: str | bytes, headers: bytes, said: str, created: int
) -> None:
    """A row that cannot would end each leader in turn."""
    row = (bytes(16), aggregatetype, key, kind, b"", None, b"avro", headers, created)
    stuck = StuckMessage(said, event_id="", reason="headers")
    place = Place(Lsn(random.getrandbits(60)), 0)
    for topic in ("t", None):
        rows.write(2, [Parking(lambda _: "hold").of_stuck(stuck, row, place, topic)])  # type: ignore[arg-type]
        place = Place(place.commit_lsn, 1)


def left(session: LockSession) -> list[tuple[int, str, int]]:
    found = session.rows("SELECT epoch, commit_lsn::text AS lsn, index FROM dovetail.parked ORDER BY seq", {})
    return [(row["epoch"], row["lsn"], row["index"]) for row in found]


def test_what_lies_beyond_the_checkpoint_is_dropped_to_the_row(session: LockSession, rows: ParkedRows) -> None:
    rows.write(1, [parked(5000, 0)])
    rows.write(2, [parked(999, 7), parked(1000, 2), parked(1000, 3), parked(1001, 0), parked(0, 4), parked(0, 5)])
    known = replace(AT, parked_lsn=rows.write(3, [parked(1, 0)]))
    rows.drop_beyond(replace(known, backfill=5))
    assert left(session) == [(1, "0/1388", 0), (2, "0/3E7", 7), (2, "0/3E8", 2), (2, "0/0", 4)]
    rows.drop_beyond(replace(known, part=None))
    assert left(session) == [(1, "0/1388", 0), (2, "0/3E7", 7), (2, "0/0", 4)]


def test_what_was_written_behind_what_the_checkpoint_knows_is_dropped_wherever_its_place_is(
    session: LockSession, rows: ParkedRows
) -> None:
    """A batch that came to nothing had parked it; its place was published since, and a failover has brought it back."""
    known = replace(AT, parked_lsn=rows.write(2, [parked(998, 0)]))
    rows.write(2, [parked(999, 0)])
    rows.drop_beyond(known)
    assert left(session) == [(2, "0/3E6", 0)]


def test_a_row_that_halted_a_backfill_goes_once_the_backfill_has_passed_it(
    session: LockSession, rows: ParkedRows
) -> None:
    rows.write(2, [parked(0, 4, ParkedState.HALTING), parked(0, 5, ParkedState.HALTING)])
    rows.drop_passed(replace(AT, backfill=5))
    assert left(session) == [(2, "0/0", 5)]
    rows.drop_passed(AT)
    assert left(session) == []


def test_a_row_that_halted_an_older_epoch_goes_once_the_recovery_is_over(
    session: LockSession, rows: ParkedRows
) -> None:
    rows.write(1, [parked(5000, 0, ParkedState.HALTING), parked(5000, 1, ParkedState.CONDEMNED)])
    rows.write(1, [parked(4000, 0)])
    rows.drop_passed(replace(AT, backfill=5))
    assert len(left(session)) == 3
    rows.drop_passed(AT)
    assert left(session) == [(1, "0/FA0", 0)]


def test_what_waits_is_judged_again_only_where_the_outbox_has_it_and_no_checkpoint_tells(
    outbox_database: Endpoints, session: LockSession, rows: ParkedRows
) -> None:
    rows.write(1, [parked(1, 0)])
    rebase = {"relay": "r", "system_id": "1", "consistent_point": "0/1", "known_epoch": 1, "command": 1, "horizon": 0}

    def waits_after(**asked: object) -> bool:
        snapshot = session.rows("SELECT pg_current_snapshot()::text AS s", {})[0]["s"]
        session.rows(queries["recovery_rebase"], {**rebase, "snapshot": snapshot, "judge_again": True, **asked})
        return bool(left(session))

    assert waits_after()  # the outbox does not have it
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload)"
            " VALUES ('00000000-0000-0000-0000-000000000000', 'a', 'k', 'T', '')"
        )
    assert waits_after(judge_again=False)
    assert waits_after(horizon=1 << 62)
    session.rows("UPDATE dovetail.parked SET reason = 'crash'", {})
    assert waits_after()
    session.rows("UPDATE dovetail.parked SET reason = 'schema'", {})
    assert not waits_after()


EVERYTHING: dict[str, Any] = dict.fromkeys(("id", "key", "type", "class", "since", "until"))


def test_a_queue_that_a_step_has_begun_belongs_to_its_command_whatever_dies(
    session: LockSession, rows: ParkedRows
) -> None:
    rows.write(2, [parked(100, nth, key=b"k") for nth in range(4)] + [parked(100, 9, key=b"other")])
    seqs = [row["seq"] for row in session.rows("SELECT seq FROM dovetail.parked ORDER BY seq", {})]
    chosen = {
        **EVERYTHING, "relay": "r", "command": 7, "upto": seqs[0], "named": False, "after": 0, "most": 1,
        "most_bytes": 1 << 20,
    }  # fmt: skip

    def head() -> list[int]:
        return [row["seq"] for row in session.rows(queries["desk_queue"], chosen)]

    for number, seq in enumerate(seqs[:4], 1):
        assert head() == [seq]
        step = {**chosen, "step": number, "rows": [seq], "discarded": [], "backfill": False}
        session.rows(queries["desk_mark"], step)
        # The process dies before the commit; the next leader unmarks, and marks again.
        session.rows(queries["desk_unmark"], {"relay": "r", "command": 0, "step": 0, "backfill": False})
        assert head() == [seq]
        session.rows(queries["desk_mark"], step)
        session.rows(queries["desk_let_go"], step)
        session.rows(queries["desk_unmark"], step)
    assert head() == []
    assert left(session) == [(2, "0/64", 9)]


def test_a_discard_condemns_the_events_that_it_names_and_no_others(
    outbox_database: Endpoints, session: LockSession, rows: ParkedRows
) -> None:
    named, other = uuid4(), uuid4()
    for nth, event in enumerate((named, other)):
        found = parked(100, nth, ParkedState.HALTING)
        rows.write(2, [found._replace(row=(event.bytes, *found.row[1:]))])
    with psycopg.connect(outbox_database.owner_dsn, autocommit=True) as owner:
        made = owner.execute(
            "INSERT INTO dovetail.command (relay, kind) VALUES ('r', 'discard') RETURNING id"
        ).fetchone()
        assert made is not None
        asked = {"relay": "r", "command": made[0]}
        session.rows(queries["desk_condemn"], asked)
        assert rows.standing() == (set(), set())
        owner.execute(queries["stuck_named"], {**asked, "ids": [named]})
    session.rows(queries["desk_condemn"], asked)
    assert rows.standing() == ({Place(Lsn(100), 0)}, set())
