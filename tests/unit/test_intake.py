"""One row that the relay cannot handle is set aside; nothing else is held up by it."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from dovetail_relay.decode import pgoutput
from dovetail_relay.decode.oversize import NOT_TAKEN_IN
from dovetail_relay.encode.framing import Encoder
from dovetail_relay.errors import PostgresUnavailable, StuckMessage
from dovetail_relay.intake import Intake
from dovetail_relay.nouns import Checkpoint, Lsn, OutboxTable, Place
from dovetail_relay.parking import Parking
from dovetail_relay.route.mapper import Mapper
from dovetail_relay.route.router import Route, Router
from dovetail_relay.telemetry import Telemetry

OID = b"\0\0\x40\x10"
COLUMNS = (
    ("id", 2950), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 17),
    ("schema_fingerprint", 17), ("encoding", 25), ("headers", 3802), ("created_at", 1184),
)  # fmt: skip
KNOWN, UNKNOWN = b"k" * 16, b"u" * 16
AT = Checkpoint(1, 1, "w", "1", 1, "d", "slot", Lsn(1))


def frame(body: bytes) -> bytes:
    return b"w" + bytes(24) + body


def begin(lsn: int) -> bytes:
    return frame(struct.pack("!cQqI", b"B", lsn, 0, 7))


def relation() -> bytes:
    columns = b"".join(b"\0" + name.encode() + b"\0" + struct.pack("!Ii", oid, -1) for name, oid in COLUMNS)
    return frame(b"R" + OID + b"dovetail\0outbox\0d" + struct.pack("!H", len(COLUMNS)) + columns)


def row(key: bytes, fingerprint: bytes) -> bytes:
    cells = (bytes(15) + b"\1", b"order", key, b"Placed", b"body", fingerprint, b"avro", b"\x01{}", bytes(8))
    values = b"".join(b"b" + struct.pack("!i", len(cell)) + cell for cell in cells)
    return frame(b"I" + OID + b"N" + struct.pack("!H", len(cells)) + values)


def intake(learn: Any) -> Intake:
    encoder = Encoder({KNOWN: b"\0\0\0\0\7"})
    made = Intake(
        tables=lambda: [OutboxTable(OID, "dovetail", "outbox", COLUMNS)],
        columns={},
        mapper=Mapper(Router({"order": Route("orders")}), encoder),
        learn=learn,
        parking=Parking(lambda _: "hold"),
        telemetry=Telemetry(),
        max_row_bytes=1 << 20,
    )
    made.restart(AT)
    return made


def test_a_row_that_makes_the_relay_fail_is_parked_with_its_key_and_the_rest_goes_on() -> None:
    def learn(_fingerprint: bytes) -> bool:
        raise ZeroDivisionError("a value of the row")

    taken = intake(learn)
    rows = [row(b"a", KNOWN), row(b"b", UNKNOWN), row(b"b", KNOWN), row(b"c", KNOWN)]
    commit = frame(struct.pack("!cBQQq", b"C", 0, 100, 108, 0))
    taken.take([begin(100), relation(), *rows, commit])
    batch = taken.ledger.seal(10, 1 << 20)
    assert batch is not None
    assert [record.key for record in batch.records] == [b"a", b"c"]
    assert [(parked.reason, parked.row[2]) for parked in batch.parked] == [("unhandled", b"b"), ("behind", b"b")]
    assert "ZeroDivisionError" in batch.parked[0].message
    assert "a value of the row" not in batch.parked[0].message


@pytest.mark.parametrize("trouble", [PostgresUnavailable("gone"), MemoryError()], ids=["database", "memory"])
def test_what_the_next_row_would_meet_as_well_is_no_rows_fault(trouble: Exception) -> None:
    def learn(_fingerprint: bytes) -> bool:
        raise trouble

    with pytest.raises(type(trouble)):
        intake(learn).take([begin(100), relation(), row(b"b", UNKNOWN)])


def test_a_table_is_known_by_its_number_and_by_its_name_and_any_other_is_not_ours() -> None:
    def learn(_fingerprint: bytes) -> bool:
        return False

    for oid, name, count in ((OID, b"aside", 1), (b"\0\0\0\1", b"outbox", 1), (b"\0\0\0\1", b"aside", 0)):
        taken = intake(learn)
        as_it_was = relation().replace(OID, oid).replace(b"outbox", name)
        taken.take([begin(100), as_it_was, row(b"a", KNOWN).replace(OID, oid)])
        taken.take([frame(struct.pack("!cBQQq", b"C", 0, 100, 108, 0))])
        batch = taken.ledger.seal(10, 1 << 20)
        assert (0 if batch is None else len(batch.records)) == count
    assert pgoutput.OUTBOX == ("dovetail", "outbox")


def test_what_was_never_taken_in_is_no_record_whoever_asks_for_it() -> None:
    """Without its payload it would be a tombstone."""
    made = intake(lambda _: False)
    values = [bytes(16), b"order", b"k", b"Placed", None, KNOWN, NOT_TAKEN_IN, b"\x01{}", 0]
    with pytest.raises(StuckMessage) as caught:
        made.record_of(tuple(values), Place(Lsn(1), 0), None)  # type: ignore[arg-type]
    assert caught.value.reason == "too_large"


def test_a_row_from_the_database_that_the_relay_cannot_handle_is_stuck_too() -> None:
    def learn(_fingerprint: bytes) -> bool:
        raise ZeroDivisionError("a value of the row")

    values = (bytes(16), b"order", b"k", b"Placed", b"x", UNKNOWN, b"avro", b"\x01{}", 0)
    with pytest.raises(StuckMessage) as caught:
        intake(learn).record_of(values, Place(Lsn(1), 0), None)  # type: ignore[arg-type]
    assert caught.value.reason == "unhandled"
    assert "a value" not in str(caught.value)
