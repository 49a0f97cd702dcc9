"""Frames into the ledger: decode, route, encode, in one pass over what a read brought.

This is where the rooms of the hot path meet. It does no I/O but for one look-up per schema that it has not met before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dovetail_relay.decode import message, pgoutput
from dovetail_relay.encode.framing import UnknownFingerprint
from dovetail_relay.errors import OutboxAltered, PoisonHeld, StuckMessage
from dovetail_relay.ledger import Ledger
from dovetail_relay.nouns import LSN_ZERO, Checkpoint, Lsn, Record
from dovetail_relay.route.headers import position_prefix
from dovetail_relay.route.mapper import Mapper
from dovetail_relay.source.replication import KEEPALIVE
from dovetail_relay.telemetry import Telemetry


class Intake:
    """What streams becomes records in `ledger`. Not thread-safe. Raises PoisonHeld and OutboxAltered.

    `tables` are the names under which rows of the outbox may stream: its own, and its leaves', under which they come
    where somebody has turned `publish_via_partition_root` off. `learn(fingerprint)` loads a schema that is not known
    yet and says whether it was found.
    """

    def __init__(
        self,
        *,
        tables: frozenset[tuple[str, str]],
        columns: Mapping[str, str],
        mapper: Mapper,
        learn: Callable[[bytes], bool],
        telemetry: Telemetry,
    ) -> None:
        self._tables = tables
        self._columns = columns
        self._mapper = mapper
        self._learn = learn
        self._telemetry = telemetry
        self._readers: dict[bytes, Callable[[bytes], pgoutput.Row]] = {}
        self._moment = pgoutput.Moment()
        self._read_message = message.message_reader(self._moment)
        self._prefix = b""
        self._epoch = 0
        self.ledger = Ledger(LSN_ZERO, None)
        # By the server's clock: how long after its commit the newest transaction was sent, µs.
        self.behind_us = 0

    def restart(self, base: Checkpoint) -> None:
        """Forget what was taken in: it will stream again from `base`."""
        self._readers.clear()
        self._epoch = base.epoch
        self.ledger = Ledger(base.end_lsn, base.part)

    def row_before_the_slot(self, raw: tuple[bytes | None, ...], seq: int) -> Record:
        """A row that was read from the table instead of the stream; its position lies before every streamed one."""
        self._prefix = position_prefix(self._epoch, LSN_ZERO)
        return self._record(lambda _frame: pgoutput.standard_row(list(raw)), b"", seq)

    def take(self, frames: list[bytes]) -> None:
        """Every frame into the ledger. Rows come in runs between a Begin and a Commit: a run is taken at once."""
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
        reader_of, record, prefix = self._readers.get, self._mapper.record, self._prefix
        oid_from, oid_to, skip_rows = pgoutput.OID.start, pgoutput.OID.stop, ledger.skip_rows
        records: list[Record] = []
        for index, frame in enumerate(frames, ledger.next_index):
            read = reader_of(frame[oid_from:oid_to])
            if read is None or index < skip_rows:
                continue
            try:
                records.append(record(read(frame), prefix, index))  # type: ignore[arg-type]
            except (UnknownFingerprint, StuckMessage):
                records.append(self._record(read, frame, index))
        ledger.add(records, rows=len(frames), size=sum(map(len, frames)))

    def _take_other(self, frame: bytes) -> None:
        ledger = self.ledger
        body = frame[pgoutput.BODY :]
        tag = body[0]
        if tag == pgoutput.BEGIN:
            begin = pgoutput.begin(body)
            self._moment.commit_us = begin.commit_us
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
            self._take_message(frame, message.message(body))

    def _take_message(self, frame: bytes, found: message.Message) -> None:
        ledger = self.ledger
        if not found.is_event:
            self._telemetry.message_ignored("prefix" if found.transactional else "not_transactional")
        elif not ledger.skipping:
            index = ledger.next_index
            # A row like any other: it counts, also where it was published before and is passed over.
            records = [] if index < ledger.skip_rows else [self._record(self._read_message, frame, index)]
            ledger.add(records, rows=1, size=len(frame))

    def _learn_relation(self, relation: pgoutput.Relation) -> None:
        name = (relation.namespace, relation.name)
        if name in self._tables:
            self._readers[relation.oid] = pgoutput.row_reader(relation, self._columns, self._moment)
        elif relation.oid in self._readers:
            raise OutboxAltered(f"the outbox table streams under a new name now: {'.'.join(name)}")
        # Any other is another schema's table of the same name, or one that an administrator added: not ours.

    def _record(self, read: Callable[[bytes], pgoutput.Row], frame: bytes, index: int) -> Record:
        try:
            row = read(frame)
            return self._mapper.record(row, self._prefix, index)  # type: ignore[arg-type]
        except UnknownFingerprint as unknown:
            try:
                if self._learn(unknown.fingerprint):
                    return self._mapper.record(row, self._prefix, index)  # type: ignore[arg-type]
                raise unknown.stuck() from None
            except StuckMessage as stuck:
                raise self._held(stuck) from stuck
        except StuckMessage as stuck:
            raise self._held(stuck) from stuck

    @staticmethod
    def _held(stuck: StuckMessage) -> PoisonHeld:
        return PoisonHeld(f"event {stuck.event_id} cannot be published ({stuck.reason}): {stuck}")
