"""The judgement on stuck rows, against a model of the log, the database and Kafka: whatever dies or is refused, each
event goes out once and in its key's order, and no key is held for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_relay.errors import StuckMessage
from dovetail_relay.ledger import Ledger
from dovetail_relay.nouns import Batch, Hold, Lsn, Parked, ParkedState, Part, Place, Record
from dovetail_relay.parking import REFUSED, Parking

KEYS = (b"a", b"b")
HOLDS = tuple(("T", key) for key in KEYS)
LETTERS = "T.dead-letter"


@dataclass(frozen=True)
class Row:
    place: Place
    key: bytes
    policy: str
    unfit: bool  # nothing can be made of it, until that is cured
    refused: bool  # Kafka refuses it, and a dead letter of it


class Model:
    """One relay on a log that is there already. `plant` turns one rule off, by name."""

    def __init__(self, random: Random, plant: str | None = None) -> None:
        self.random, self.plant = random, plant
        self.log: list[tuple[Lsn, Lsn, list[Row]]] = []
        at = 100
        for _ in range(random.randint(1, 6)):
            final, at = Lsn(at + random.randint(0, 5)), at + 10
            rows = [self._row(Place(final, nth)) for nth in range(random.randint(0, 7))]
            self.log.append((final, Lsn(at), rows))
        self.rows = {row.place: row for _, _, rows in self.log for row in rows}
        self.healthy = False
        self.end_lsn, self.part = Lsn(50), None
        self.queue: dict[Place, Parked] = {}  # dovetail.parked, by age
        self.out: list[Place] = []
        self.letters: list[Place] = []
        self.max_rows = random.randint(1, 4)
        self.start()

    def _row(self, place: Place) -> Row:
        chance = self.random.random
        return Row(
            place, self.random.choice(KEYS), "skip" if chance() < 0.3 else "hold", chance() < 0.15, chance() < 0.15
        )

    # -- the relay ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new leader."""
        self.parking = Parking(lambda policy: policy)
        if self.plant != "rows beyond the checkpoint stay":
            self.drop_beyond()
        self.restart()

    def restart(self) -> None:
        held = [parked.hold for parked in self.queue.values() if parked.state is ParkedState.PARKED]
        self.parking.begin(held, [])
        self.ledger = Ledger(self.end_lsn, self.part)
        self.frames = [frame for final, end, rows in self.log if end > self.end_lsn for frame in (final, *rows, end)]

    def drop_beyond(self) -> None:
        part = self.part or Part(Lsn(0), 0)
        for place in list(self.queue):
            if not (place.commit_lsn < self.end_lsn or (place.commit_lsn == part[0] and place.nth < part[1])):
                del self.queue[place]

    def read(self) -> None:
        """A few frames of the stream, each judged as the intake does."""
        for _ in range(self.random.randint(0, 5)):
            if not self.frames:
                return
            frame = self.frames.pop(0)
            if isinstance(frame, Row):
                if not self.ledger.skipping:
                    records, parked = ([], []) if frame.place.nth < self.ledger.skip_rows else self.judged(frame)
                    self.ledger.add(records, rows=1, size=1, parked=parked)
            elif self.ledger.in_transaction:
                self.ledger.commit(frame)
            else:
                self.ledger.begin(frame, 1)

    def judged(self, row: Row) -> tuple[list[Record], list[tuple[int, Parked]]]:
        raw = (b"", row.policy, row.key)
        try:
            record = self.record(row)
            waits = self.parking.of_record(record, raw, row.place, "id")
            return ([record], []) if waits is None else ([], [(0, waits)])
        except StuckMessage as stuck:
            parked = self.parking.of_stuck(stuck, raw, row.place, "T")
            letter = [Record(LETTERS, b"%d/%d" % row.place, row.key, [])]
            return (letter if parked.state is ParkedState.DEAD_LETTERED else []), [(0, parked)]

    def record(self, row: Row) -> Record:
        if row.unfit and not self.healthy:
            raise StuckMessage("unfit", event_id="id", reason="schema")
        return Record("T", b"%d/%d" % row.place, row.key, [])

    def send(self) -> None:
        """A batch to its outcome: committed, refused, or the end of the process on either side of the commit."""
        batch = self.ledger.seal(self.max_rows, 1 << 30)
        if batch is None:
            return
        if self.plant != "parked rows are written after the commit":
            self.write(batch)
        self.read()
        if refused := [
            place for place in map(place_of, batch.records) if self.rows[place].refused and not self.healthy
        ]:
            self.parking.refuse(refused[0], "MSG_SIZE_TOO_LARGE")
            if self.plant != "a batch that is given up leaves its rows":
                self.drop_beyond()
            self.restart()
            return
        dies = not self.healthy and self.random.random() < 0.15
        if dies and self.random.random() < 0.5:
            self.start()
            return
        self.end_lsn, self.part = batch.end_lsn, batch.part
        for record in batch.records:
            (self.letters if record.topic == LETTERS else self.out).append(place_of(record))
        if dies:
            self.start()
            return
        self.write(batch)
        if batch.parked:
            self.parking.passed(batch.end_lsn)

    def write(self, batch: Batch) -> None:
        for parked in batch.parked:
            self.queue.setdefault(parked.place, parked)

    def release(self, hold: Hold) -> None:
        """One step of a release: the head of a queue, as far as it can go now."""
        waiting = [row for row in self.queue.values() if row.hold == hold and row.state is ParkedState.PARKED]
        going = []
        for parked in waiting[: self.random.randint(1, 4)]:
            row = self.rows[parked.place]
            if not self.healthy and (row.unfit or row.refused):
                break
            going.append(parked)
        self.read()
        if not going or (not self.healthy and self.random.random() < 0.1):
            return
        self.out += [parked.place for parked in going]
        for parked in going:
            del self.queue[parked.place]
        if not self.healthy and self.random.random() < 0.1:
            self.start()
            return
        if len(going) == len(waiting) or self.plant == "a hold ends while rows wait in the database":
            careless = self.plant == "a hold ends while rows wait in memory"
            if careless or self.ledger.let_go(hold, self.record_or_none):
                self.parking.free(hold)

    def record_or_none(self, parked: Parked) -> Record | None:
        try:
            return self.record(self.rows[parked.place])
        except StuckMessage:
            return None

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(40):
            what = self.random.random()
            if what < 0.45:
                self.read()
            elif what < 0.8:
                self.send()
            else:
                self.release(self.random.choice(HOLDS))
        self.healthy = True
        for _ in range(400):
            if not (self.frames or self.ledger.rows or self.queue):
                break
            self.read()
            self.send()
            for hold in HOLDS:
                self.release(hold)
        self.check()

    def check(self) -> None:
        everything = list(self.rows)
        assert sorted(self.out + self.letters) == everything, "each event is out once"
        for key in KEYS:
            of_key = [place for place in self.out if self.rows[place].key == key]
            assert of_key == sorted(of_key), "in the order of its key"
        assert [row for row in self.queue.values() if row.state is ParkedState.PARKED] == []
        assert self.parking.held == set(), "no key is held for nothing"


def place_of(record: Record) -> Place:
    commit_lsn, nth = map(int, (record.value or b"").split(b"/"))
    return Place(Lsn(commit_lsn), nth)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 40))
def test_each_event_goes_out_once_in_its_keys_order_and_no_key_is_held_for_nothing(seed: int) -> None:
    Model(Random(seed)).run()


@pytest.mark.parametrize(
    "plant",
    [
        "rows beyond the checkpoint stay",
        "a batch that is given up leaves its rows",
        "parked rows are written after the commit",
        "a hold ends while rows wait in memory",
        "a hold ends while rows wait in the database",
    ],
)
def test_a_planted_mistake_is_caught(plant: str) -> None:
    with pytest.raises(AssertionError):
        for seed in range(3000):
            Model(Random(seed), plant).run()


def row_of(policy: str = "hold", key: bytes = b"k") -> tuple[bytes, str, bytes]:
    return (b"", policy, key)


def test_a_discarded_row_in_memory_holds_nobody_up_when_its_key_is_let_go() -> None:
    ledger = Ledger(Lsn(50), None)
    ledger.begin(Lsn(100), 1)
    hold = ("T", b"k")
    discarded = Parked(Place(Lsn(100), 0), hold, "discarded", "", ParkedState.DISCARDED, row_of())
    behind = Parked(Place(Lsn(100), 1), hold, "behind", "", ParkedState.PARKED, row_of())
    ledger.add([], rows=2, size=2, parked=[(0, discarded), (0, behind)])
    assert ledger.let_go(hold, lambda parked: Record("T", b"", b"k", []))
    ledger.commit(Lsn(108))
    batch = ledger.seal(10, 10)
    assert batch is not None
    assert (len(batch.records), batch.parked) == (1, [discarded])


def test_two_aggregate_types_of_one_topic_share_their_keys_hold() -> None:
    parking = Parking({"one": "hold", "other": "skip"}.__getitem__)
    stuck = StuckMessage("x", event_id="id", reason=REFUSED)
    assert parking.of_stuck(stuck, row_of("one"), Place(Lsn(1), 0), "T").state is ParkedState.PARKED
    waits = parking.of_record(Record("T", b"", b"k", []), row_of("other"), Place(Lsn(1), 1), "id")
    assert waits is not None
    assert parking.of_stuck(stuck, row_of("other"), Place(Lsn(1), 2), "T").state is ParkedState.PARKED


def test_what_has_no_topic_has_none_for_dead_letters_either_and_is_held() -> None:
    parking = Parking(lambda _: "skip")
    no_route = StuckMessage("no route", event_id="1", reason="route")
    assert parking.of_stuck(no_route, row_of(), Place(Lsn(1), 0), None).state is ParkedState.PARKED
    stuck = StuckMessage("too large", event_id="2", topic="T", reason="too_large")
    assert parking.of_stuck(stuck, row_of("other"), Place(Lsn(2), 0), "T").state is ParkedState.DEAD_LETTERED


def test_what_ends_the_process_is_no_dead_letter_which_is_handed_to_kafka_too() -> None:
    stuck = StuckMessage("it has ended the process", event_id="1", reason="crash")
    assert Parking(lambda _: "skip").of_stuck(stuck, row_of(), Place(Lsn(1), 0), "T").state is ParkedState.PARKED


def test_a_key_that_had_no_route_is_held_once_it_has_one() -> None:
    parking = Parking(lambda _: "hold")
    no_route = StuckMessage("no route", event_id="1", reason="route")
    row = row_of()
    first = parking.of_stuck(no_route, row, Place(Lsn(1), 0), None)
    record = Record("T", b"", b"k", [])
    waits = parking.of_record(record, row, Place(Lsn(2), 0), "2")
    assert waits is not None
    assert waits.hold == first.hold
    stuck = StuckMessage("too large", event_id="3", topic="T", reason="too_large")
    assert parking.of_stuck(stuck, row, Place(Lsn(3), 0), "T").hold == first.hold
    parking.free(first.hold)
    assert parking.of_record(record, row, Place(Lsn(4), 0), "4") is None
