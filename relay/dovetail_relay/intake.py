"""Frames into the ledger: decode, route, encode, in one pass over what a read brought.

This is where the rooms of the hot path meet. It does no I/O but for one look-up per schema that it has not met before.
Rows are taken in runs. Only where something is held, or where a row of the run cannot go out, is the run taken again
row by row, and each row judged by `parking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast
from uuid import UUID

from dovetail_relay.decode import message, oversize, pgoutput
from dovetail_relay.decode.pgoutput import MalformedMessage
from dovetail_relay.encode.framing import UnknownFingerprint
from dovetail_relay.errors import PoisonHeld, RelayError, StuckMessage
from dovetail_relay.ledger import Ledger
from dovetail_relay.nouns import (
    LSN_ZERO,
    Checkpoint,
    Lsn,
    OutboxRow,
    OutboxTable,
    Parked,
    ParkedState,
    Place,
    Record,
    UnkeptRecord,
    dead_letter_topic,
    text_of,
)
from dovetail_relay.parking import BEHIND, UNHANDLED, Parking
from dovetail_relay.route.headers import build, position_prefix, time_text, uuid_text
from dovetail_relay.route.mapper import Mapper, Row
from dovetail_relay.source.replication import KEEPALIVE
from dovetail_relay.telemetry import Telemetry
from dovetail_schemas.headers import STUCK_MESSAGE, STUCK_REASON, STUCK_TOPIC

_NO_UUID = bytes(16)
# Errors that are named already, and one that the next row would meet as well.
_NOT_THE_ROWS = (RelayError, MalformedMessage, MemoryError)


class Taken(Protocol):
    """Called before each row where the relay looks for the one that ends its process."""

    def __call__(self, place: Place) -> None: ...


class Intake:
    """What streams becomes records in `ledger`. Not thread-safe. Raises PoisonHeld and OutboxAltered.

    `tables()` are those that rows of the outbox may stream from: itself, and its leaves, where somebody has turned
    `publish_via_partition_root` off. They are known by number and by name: a transaction may have given one another
    name for a while, and one that is made again has another number. `learn(fingerprint)` loads a schema that is not
    known yet and says whether it was found.
    """

    def __init__(
        self,
        *,
        tables: Callable[[], Sequence[OutboxTable]],
        columns: Mapping[str, str],
        mapper: Mapper,
        learn: Callable[[bytes], bool],
        parking: Parking,
        telemetry: Telemetry,
        max_row_bytes: int,
    ) -> None:
        self._tables_now = tables
        self._tables = {table.oid: table for table in tables()}
        self._columns = columns
        self._mapper = mapper
        self.learn = learn
        self.parking = parking
        self._telemetry = telemetry
        self._max_row_bytes = max_row_bytes
        self._readers: dict[bytes, Callable[[bytes], pgoutput.Row]] = {}
        self._moment = pgoutput.Moment()
        self._read_message = message.message_reader(self._moment)
        self._prefix = b""
        self._final_lsn = LSN_ZERO
        self._epoch = 0
        # Fingerprints that were looked up since these frames were read: a schema that is registered before its first
        # event is committed would have been found.
        self._unknown: set[bytes] = set()
        self.ledger = Ledger(LSN_ZERO, None)
        # By the server's clock: how long after its commit the newest transaction was sent, µs.
        self.behind_us = 0
        self.before_each: Taken | None = None
        # The transaction whose rows are being read, in 32 bits.
        self.xid = 0
        # Where the newest transaction lies in which something was too large: it has made the stream's buffer grow.
        self.large_lsn: Lsn | None = None

    def restart(self, base: Checkpoint) -> None:
        """Forget what was taken in: it will stream again from `base`."""
        self._readers.clear()
        self._epoch = base.epoch
        self.large_lsn = None
        self.ledger = Ledger(base.end_lsn, base.part)

    def stored_row(self, raw: Sequence[bytes | None], seq: int, size: int) -> tuple[Record | None, Parked | None]:
        """A row that was read from the outbox table instead of the stream; its position lies before every streamed one.

        What goes out, and what waits; a dead letter is both. Its payload may be left out of `raw` where `size` is
        beyond the limit.
        """
        self._unknown.clear()
        self._prefix = position_prefix(self._epoch, LSN_ZERO)
        place = Place(LSN_ZERO, seq)
        too_large = size if size > self._max_row_bytes else None
        return self._taken(lambda _frame: pgoutput.standard_row(list(raw)), b"", place, too_large)

    def record_of(self, row: OutboxRow, place: Place, epoch: int | None) -> Record:
        """The record of a row that comes from the database. Raises StuckMessage where it cannot go out.

        `epoch` is that of its position, None for the one that is now.
        """
        self._unknown.clear()
        prefix = position_prefix(self._epoch if epoch is None else epoch, place.commit_lsn)
        try:
            return self._record(cast("Row", row), prefix, place.nth)
        except _NOT_THE_ROWS:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_taken`: it would end each leader that goes on with the command
            raise _unhandled(error, cast("Row", row)) from None

    def let_go(self, hold: tuple[str, bytes]) -> None:
        """The queue of `hold` in the database is empty: what waits here goes out behind it."""
        if self.ledger.let_go(hold, self._record_or_none):
            self.parking.free(hold)

    def _record_or_none(self, parked: Parked) -> Record | None:
        """What only waits behind another. A row that is stuck for itself is stuck still, whoever went before it."""
        if parked.reason != BEHIND:
            return None
        try:
            return self.record_of(parked.row, parked.place, None)
        except StuckMessage:
            return None

    def take(self, frames: list[bytes]) -> None:
        """Every frame into the ledger. Rows come in runs between a Begin and a Commit: a run is taken at once."""
        self._unknown.clear()
        insert, tag_at = pgoutput.INSERT, pgoutput.BODY
        run = 0
        for at, frame in enumerate(frames):
            if frame[tag_at] != insert:
                if run < at:
                    self._take_rows(frames[run:at])
                run = at + 1
                self._take_other(frame)
        if run < len(frames):
            self._take_rows(frames[run:])

    def _take_rows(self, frames: list[bytes]) -> None:
        """The hot path: about 3 µs a row, most of it slicing."""
        ledger = self.ledger
        if ledger.skipping:
            return
        if self.parking.busy or self.before_each is not None:
            self._take_one_by_one(frames)
            return
        reader_of, record, prefix = self._readers.get, self._mapper.record, self._prefix
        oid_from, oid_to, skip_rows = pgoutput.OID.start, pgoutput.OID.stop, ledger.skip_rows
        records: list[Record] = []
        try:
            for index, frame in enumerate(frames, ledger.next_index):
                read = reader_of(frame[oid_from:oid_to])
                if read is None or index < skip_rows:
                    continue
                records.append(record(read(frame), prefix, index))  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - whichever row it is, and whatever it does, is found one by one
            # Nothing of the run was kept yet.
            self._take_one_by_one(frames)
            return
        ledger.add(records, rows=len(frames), size=sum(map(len, frames)))

    def _take_one_by_one(self, frames: list[bytes]) -> None:
        ledger, commit_lsn = self.ledger, self.ledger.commit_lsn
        records: list[Record] = []
        parked: list[tuple[int, Parked]] = []
        for index, frame in enumerate(frames, ledger.next_index):
            read = self._readers.get(frame[pgoutput.OID])
            if read is not None and index >= ledger.skip_rows:
                self._sort(self._taken(read, frame, Place(commit_lsn, index)), records, parked)
        ledger.add(records, rows=len(frames), size=sum(map(len, frames)), parked=parked)

    @staticmethod
    def _sort(
        taken: tuple[Record | None, Parked | None], records: list[Record], parked: list[tuple[int, Parked]]
    ) -> None:
        record, row = taken
        if row is not None:
            parked.append((len(records), row))
        if record is not None:
            records.append(record)

    def _take_other(self, frame: bytes) -> None:
        ledger = self.ledger
        body = frame[pgoutput.BODY :]
        tag = body[0]
        if tag == pgoutput.BEGIN:
            begin = pgoutput.begin(body)
            self._moment.commit_us = begin.commit_us
            self._final_lsn = begin.final_lsn
            self.xid = begin.xid
            if ledger.begin(begin.final_lsn, begin.commit_us):
                self._prefix = position_prefix(self._epoch, begin.final_lsn)
        elif tag == pgoutput.COMMIT:
            commit = pgoutput.commit(body)
            ledger.commit(commit.end_lsn)
            self.behind_us = pgoutput.sent_us(frame) - commit.commit_us
        elif tag == pgoutput.RELATION:
            self._learn_relation(pgoutput.relation(body))
        elif tag == KEEPALIVE:
            ledger.keepalive(Lsn(int.from_bytes(body[1:], "big")))
        elif tag == message.MESSAGE:
            self._take_message(frame)
        elif tag == oversize.TAG:
            self._take_large(*oversize.opened(frame))

    def _take_large(self, size: int, frame: bytes) -> None:
        """A row that counts like any other, and is stuck where it is to be published."""
        ledger = self.ledger
        self.large_lsn = self._final_lsn if ledger.in_transaction else Lsn(int.from_bytes(frame[1:9], "big"))
        read = self._readers.get(frame[pgoutput.OID])
        if frame[pgoutput.BODY] == message.MESSAGE:
            self._take_message(frame, size)
        elif not ledger.skipping:
            records: list[Record] = []
            parked: list[tuple[int, Parked]] = []
            if read is not None and ledger.next_index >= ledger.skip_rows:
                place = Place(ledger.commit_lsn, ledger.next_index)
                self._sort(self._taken(read, frame, place, size), records, parked)
            ledger.add(records, rows=1, size=len(frame), parked=parked)

    def _take_message(self, frame: bytes, too_large: int | None = None) -> None:
        ledger = self.ledger
        found = message.message(frame[pgoutput.BODY :])
        if found.is_padding:
            return
        if not found.is_event:
            self._telemetry.message_ignored("prefix" if found.transactional else "not_transactional")
        elif not ledger.skipping:
            index = ledger.next_index
            # A row like any other: it counts, also where it was published before and is passed over.
            records: list[Record] = []
            parked: list[tuple[int, Parked]] = []
            if index >= ledger.skip_rows:
                place = Place(ledger.commit_lsn, index)
                self._sort(self._taken(self._read_message, frame, place, too_large), records, parked)
            ledger.add(records, rows=1, size=len(frame), parked=parked)

    def _learn_relation(self, relation: pgoutput.Relation) -> None:
        known = self._tables.get(relation.oid)
        if known is None or (known.schema, known.name, known.columns) != relation[1:]:
            # Somebody has altered a table: what counts is what it is by now.
            self._tables = {table.oid: table for table in self._tables_now()}
            known = self._tables.get(relation.oid)
        if known is not None:
            relation = pgoutput.as_now(relation, known, self._columns)
        elif (relation.namespace, relation.name) not in {(table.schema, table.name) for table in self._tables.values()}:
            return  # another schema's table of the same name, or one that an administrator added
        self._readers[relation.oid] = pgoutput.row_reader(relation, self._columns, self._moment)

    # -- one row, judged ----------------------------------------------------------------------------------------------

    def _taken(
        self, read: Callable[[bytes], pgoutput.Row], frame: bytes, place: Place, too_large: int | None = None
    ) -> tuple[Record | None, Parked | None]:
        """What goes out of a row, and what waits; a dead letter is both. Raises PoisonHeld where its route halts.

        Of a row that is `too_large`, so many bytes, `frame` has no long value.
        """
        if self.before_each is not None:
            self.before_each(place)
        row: Row | None = None
        try:
            row = cast("Row", read(frame))
            if too_large is not None:
                refused = oversize.refusal(row, too_large, self._max_row_bytes)
                row = cast("Row", oversize.without_payload(row))
                raise refused
            self.parking.before(place, _id_text(row))
            record = self._record(row, self._prefix, place.nth)
            waits = self.parking.of_record(record, row, place, _id_text(row))
            return (record, None) if waits is None else (None, waits)
        except StuckMessage as stuck:
            return self._stuck(stuck, row or _unreadable(stuck, frame), place)
        except _NOT_THE_ROWS:
            raise
        except Exception as error:  # noqa: BLE001 - ours, and the same at each start: it must not hold up all others
            unhandled = _unhandled(error, row)
            return self._stuck(unhandled, row or _unreadable(unhandled, frame), place)

    def _record(self, row: Row, prefix: bytes, index: int) -> Record:
        if row[6] == oversize.NOT_TAKEN_IN:
            # Its payload is not there: as a record without one it would be a tombstone.
            raise StuckMessage("its payload was never taken in", event_id=_id_text(row), reason="too_large")
        try:
            record = self._mapper.record(row, prefix, index)
        except UnknownFingerprint as unknown:
            if unknown.fingerprint in self._unknown or not self.learn(unknown.fingerprint):
                self._unknown.add(unknown.fingerprint)
                raise unknown.stuck() from None
            record = self._mapper.record(row, prefix, index)
        return UnkeptRecord(*record) if isinstance(row, message.MessageRow) else record

    def _stuck(self, stuck: StuckMessage, row: Row, place: Place) -> tuple[Record | None, Parked | None]:
        topic = stuck.topic or self.topic_of(text_of(row[1]))
        parked = self.parking.of_stuck(stuck, row, place, topic)
        self._telemetry.stuck(stuck.reason)
        if parked.state is ParkedState.HALTING:
            raise PoisonHeld(
                f"event {stuck.event_id} cannot be published ({stuck.reason}): {stuck}", parked=parked
            ) from stuck
        letter = parked.state is ParkedState.DEAD_LETTERED
        return (self._dead_letter(parked, parked.hold[0]) if letter else None), parked

    def topic_of(self, aggregatetype: str) -> str | None:
        """Where events of this type go; None where they have no route."""
        try:
            return self._mapper.target(aggregatetype).topic
        except StuckMessage:
            return None

    def _dead_letter(self, parked: Parked, topic: str) -> Record:
        """The payload as the row carries it, under the row's key, and why it is here."""
        row = parked.row
        position = position_prefix(self._epoch, parked.place.commit_lsn) + b"%d" % parked.place.nth
        try:
            time = time_text(row[8])
        except OverflowError:
            time = b""
        headers: list[tuple[str, str | bytes | None]] = [
            *build(uuid_text(row[0]), text_of(row[3]).encode(), time, position),
            (STUCK_REASON, parked.reason.encode()),
            (STUCK_MESSAGE, parked.message.encode()),
            (STUCK_TOPIC, topic.encode()),
        ]
        return Record(dead_letter_topic(topic), row[4], row[2], headers)


def _id_text(row: Row) -> str:
    return uuid_text(row[0]).decode()


def _unhandled(error: Exception, row: Row | None) -> StuckMessage:
    """The exception's own words may quote the row."""
    what = f"the relay cannot handle it ({type(error).__name__}), which is the relay's own mistake: please report it"
    known = row is not None and bool(row[0])
    return StuckMessage(what, event_id=_id_text(row) if known and row else "without an id", reason=UNHANDLED)


def _unreadable(stuck: StuckMessage, frame: bytes) -> Row:
    """A row that no columns could be read of: the frame itself is kept, under the id that is known, if one is."""
    try:
        event_id = UUID(stuck.event_id).bytes
    except ValueError:
        event_id = _NO_UUID
    unknown: Any = (event_id, b"?", b"", b"?", frame[pgoutput.BODY :], None, b"frame", b"\x01{}", 0)
    return cast("Row", unknown)
