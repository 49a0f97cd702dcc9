"""What a batch adds to the books: what goes out for the first time, and has a row."""

from __future__ import annotations

import uuid
from typing import Any

from dovetail_relay.bookkeeping import Bookkeeper
from dovetail_relay.books import HOUR, begin, total_of
from dovetail_relay.machine import Machine
from dovetail_relay.nouns import (
    Batch,
    Books,
    Checkpoint,
    CommandStep,
    Lsn,
    Parked,
    ParkedState,
    Place,
    Record,
    Sum,
    UnkeptRecord,
)
from dovetail_schemas.headers import REPLAY, STUCK_REASON, format_time

# 2026-01-31T12:00:00Z, the beginning of an hour.
NOON = 1_769_860_800 // 10
KEEPER = Bookkeeper(unkept=True)


def record(event_id: uuid.UUID | None = None, *more: tuple[str, bytes], bucket: int = NOON) -> Record:
    time = format_time(bucket * 10_000_000).encode()
    event = str(event_id or uuid.uuid4()).encode()
    return Record("t", b"v", b"k", [("id", event), ("type", b"T"), ("time", time), ("position", b"1/0/1"), *more])


def batch(*records: Record, bucket: int = NOON, **more: Any) -> Batch:
    """Committed in `bucket`; 0 for one that did not stream."""
    committed = (bucket * 10 - 946_684_800) * 1_000_000 if bucket else 0
    return Batch(list(records), Lsn(1000), None, newest_commit_us=committed, **more)


def everything(found: Books | None) -> Sum:
    assert found is not None
    return total_of(
        one for topic in found.topics.values() for one in (topic.total, *topic.hours.values(), *topic.fine.values())
    )


def test_the_books_begin_with_the_first_batch_that_streamed() -> None:
    assert KEEPER.after(None, batch(record(), bucket=0)) is None
    begun = KEEPER.after(None, batch(record()))
    assert begun is not None
    assert (begun.since, everything(begun).events) == (NOON + 1, 1)


def test_a_batch_without_a_time_changes_no_boundary() -> None:
    begun = begin(NOON - 1)
    assert KEEPER.after(begun, batch(bucket=0)) is begun
    more = KEEPER.after(begun, batch(record(), bucket=0))
    assert more is not None
    assert (more.since, more.fine_from, everything(more).events) == (NOON, NOON, 1)


def test_a_replay_is_not_counted_again_and_a_released_row_is_counted_now() -> None:
    event = uuid.uuid4()
    step = CommandStep(7, 1)
    replay, released = record(uuid.uuid4(), (REPLAY, b"7")), record(event)
    found = KEEPER.after(begin(NOON - 1), batch(replay, released, bucket=0, command=step))
    assert everything(found) == Sum(1, event.int)


def test_a_dead_letter_is_parked_to_the_books_even_where_its_time_cannot_be_read() -> None:
    event = uuid.uuid4()
    letter = record(uuid.uuid4(), (STUCK_REASON, b"schema"))
    letter.headers[2] = ("time", b"")
    gone = Parked(Place(Lsn(1), 0), ("t", b"k"), "schema", "m", ParkedState.DEAD_LETTERED, ())
    assert everything(KEEPER.after(begin(NOON - 1), batch(record(event), letter, parked=[gone]))) == Sum(1, event.int)


def test_an_event_without_a_row_is_not_counted() -> None:
    event = uuid.uuid4()
    batched = batch(record(event), UnkeptRecord(*record()))
    assert everything(KEEPER.after(begin(NOON - 1), batched)) == Sum(1, event.int)
    released = batch(UnkeptRecord(*record()), record(event), command=CommandStep(7, 1))
    assert everything(Bookkeeper(unkept=False).after(begin(NOON - 1), released)) == Sum(1, event.int)


def test_hours_that_are_verified_are_not_kept_apart() -> None:
    keeper = Bookkeeper(unkept=False)
    found = KEEPER.after(begin(NOON - 3 * HOUR), batch(record(bucket=NOON - 2 * HOUR)))
    keeper.verified_hour = NOON // HOUR
    later = keeper.after(found, batch(bucket=NOON + 2 * HOUR))
    assert later is not None
    assert (later.since, later.topics["t"].total.events) == (NOON, 1)


# -- in the chain of checkpoints --------------------------------------------------------------------------------------


def machine(books: Books | None) -> Machine:
    durable = Checkpoint(1, 5, "me", "s", 1, "d", "slot", Lsn(900), books=books)
    made = Machine(durable, writer="me", timeline=1)
    made.bookkeeper = KEEPER
    return made


def test_a_batch_that_is_given_up_is_not_counted_and_one_that_is_sent_again_only_once() -> None:
    relay = machine(begin(NOON - 1))
    relay.propose(batch(record()), horizon=0)
    relay.abandon()
    tried = relay.propose(batch(record()), horizon=0)
    relay.unknown()
    relay.recycled(relay.durable, all_acknowledged=True)
    assert relay.attempt is tried
    relay.committed()
    assert everything(relay.durable.books).events == 1


def test_a_torn_batch_is_counted_once() -> None:
    relay = machine(begin(NOON - 1))
    tried = relay.propose(batch(record()), horizon=0)
    relay.unknown()
    relay.recycled(tried, all_acknowledged=False)
    relay.committed()
    assert everything(relay.durable.books).events == 1


def test_what_is_delivered_without_a_checkpoint_is_counted_with_the_next_one() -> None:
    relay = machine(begin(NOON - 1))
    relay.propose(batch(record()), horizon=0)
    relay.delivered()
    assert everything(relay.durable.books).events == 0
    relay.propose(batch(record()), horizon=0)
    relay.committed()
    assert everything(relay.durable.books).events == 2


def test_a_machine_without_a_bookkeeper_carries_the_books_along() -> None:
    relay = machine(begin(NOON - 1))
    relay.bookkeeper = None
    assert relay.propose(batch(record()), horizon=0).books is relay.durable.books
