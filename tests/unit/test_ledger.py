"""The ledger against a model that knows the whole log: whatever the interleaving, the rest is the rest."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail_relay.ledger import Ledger
from dovetail_relay.nouns import Batch, Lsn, Part, Record


def record(name: str) -> Record:
    return Record("topic", name.encode(), b"key", [])


@dataclass(frozen=True)
class Transaction:
    """One transaction of the log: the commit record starts at `final` and ends at `end`."""

    final: Lsn
    end: Lsn
    rows: tuple[str, ...]


def the_log(row_counts: list[int], gaps: list[int]) -> list[Transaction]:
    at, log = 100, []
    for number, rows in enumerate(row_counts):
        at += gaps[number % len(gaps)]
        log.append(Transaction(Lsn(at), Lsn(at + 8), tuple(f"{number}/{row}" for row in range(rows))))
        at += 8
    return log


def take(ledger: Ledger, *rows: str, size: int = 10) -> None:
    """A run of rows of the open transaction, as the pipeline takes it in."""
    if not ledger.skipping:
        kept = [record(row) for index, row in enumerate(rows, ledger.next_index) if index >= ledger.skip_rows]
        ledger.add(kept, rows=len(rows), size=size * len(rows))


def names(batch: Batch) -> list[str]:
    return [(row.value or b"").decode() for row in batch.records]


class Chooser:
    """Decides from drawn numbers, so that Hypothesis can shrink what happened."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers
        self._at = 0

    def one_in(self, n: int) -> bool:
        return self.upto(n - 1) == 0

    def upto(self, n: int) -> int:
        number = self._numbers[self._at % len(self._numbers)]
        self._at += 1
        return number % (n + 1)


def replay(log: list[Transaction], end_lsn: Lsn, part: Part | None, choose: Chooser, max_rows: int) -> list[Batch]:
    """Stream `log` as the server does from `end_lsn`, each transaction that ends beyond it, and cut batches."""
    ledger, batches = Ledger(end_lsn, part), []

    def maybe_seal() -> None:
        if choose.one_in(3):
            batch = ledger.seal(max_rows, 1 << 30)
            if batch is not None:
                batches.append(batch)
        if choose.one_in(4):
            idle = ledger.seal_idle()
            if idle is not None:
                batches.append(idle)

    sent = Lsn(end_lsn)
    for transaction in log:
        if transaction.end <= end_lsn:
            continue
        if choose.one_in(3):
            # All of the WAL up to a place before this commit was sent, and nothing of it was ours.
            ledger.keepalive(Lsn(max(sent, transaction.final - 1)))
            maybe_seal()
        ledger.begin(transaction.final, 1)
        at = 0
        while at < len(transaction.rows):
            run = 1 + choose.upto(3)
            take(ledger, *transaction.rows[at : at + run])
            at += run
            maybe_seal()
            if choose.one_in(5):
                ledger.keepalive(Lsn(transaction.end + 1000))  # must count for nothing here
        ledger.commit(transaction.end)
        sent = transaction.end
        maybe_seal()
        if choose.one_in(4):
            ledger.keepalive(transaction.end)
            maybe_seal()
    while (batch := ledger.seal(max_rows, 1 << 30)) is not None:
        batches.append(batch)
    assert ledger.rows == 0
    assert ledger.bytes == 0
    return batches


LOGS = st.lists(st.integers(0, 12), min_size=1, max_size=8)
GAPS = st.lists(st.integers(1, 30), min_size=1, max_size=4)
CHOICES = st.lists(st.integers(0, 59), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(LOGS, GAPS, CHOICES, st.integers(1, 6))
def test_every_row_goes_out_once_and_in_commit_order(
    rows: list[int], gaps: list[int], numbers: list[int], max_rows: int
) -> None:
    log = the_log(rows, gaps)
    batches = replay(log, Lsn(50), None, Chooser(numbers), max_rows)
    assert [name for batch in batches for name in names(batch)] == [name for tx in log for name in tx.rows]


@settings(max_examples=100, deadline=None)
@given(LOGS, GAPS, CHOICES, st.integers(1, 6))
def test_the_end_of_batches_never_goes_back_and_part_only_grows(
    rows: list[int], gaps: list[int], numbers: list[int], max_rows: int
) -> None:
    batches = replay(the_log(rows, gaps), Lsn(50), None, Chooser(numbers), max_rows)
    progress = [(batch.end_lsn, batch.part or Part(Lsn(0), 0)) for batch in batches]
    assert progress == sorted(progress)


@settings(max_examples=200, deadline=None)
@given(LOGS, GAPS, CHOICES, CHOICES, st.integers(1, 6), st.integers(1, 6))
def test_a_restart_from_any_batch_replays_exactly_the_rest(
    rows: list[int], gaps: list[int], before: list[int], after: list[int], max_before: int, max_after: int
) -> None:
    log = the_log(rows, gaps)
    batches = replay(log, Lsn(50), None, Chooser(before), max_before)
    everything = [name for tx in log for name in tx.rows]
    out: list[str] = []
    for batch in batches:
        out += names(batch)
        again = replay(log, batch.end_lsn, batch.part, Chooser(after), max_after)
        assert out + [name for later in again for name in names(later)] == everything


@settings(max_examples=200, deadline=None)
@given(LOGS, GAPS, st.lists(CHOICES, min_size=2, max_size=6), st.integers(1, 4))
def test_a_chain_of_restarts_loses_and_doubles_nothing(
    rows: list[int], gaps: list[int], choices: list[list[int]], max_rows: int
) -> None:
    log = the_log(rows, gaps)
    end_lsn, part, out = Lsn(50), None, list[str]()
    for numbers in choices:
        batches = replay(log, end_lsn, part, Chooser(numbers), max_rows)
        for batch in batches[: 1 + numbers[0] % 3]:
            out += names(batch)
            end_lsn, part = batch.end_lsn, batch.part
    for batch in replay(log, end_lsn, part, Chooser([1]), max_rows):
        out += names(batch)
    assert out == [name for tx in log for name in tx.rows]


def test_an_idle_position_before_the_rest_of_a_partly_published_transaction_is_not_adopted() -> None:
    # A walsender that decodes a large transaction again speaks only in keepalives until it reaches the commit. To take
    # such a position would forget `part`, and the transaction's first rows would go out a second time.
    ledger = Ledger(Lsn(100), Part(Lsn(500), 3))
    ledger.keepalive(Lsn(300))
    assert ledger.seal_idle() is None
    ledger.begin(Lsn(500), 1)
    take(ledger, "a", "b", "c", "d", "e")
    ledger.commit(Lsn(508))
    rest = ledger.seal(10, 1 << 30)
    assert rest is not None
    assert names(rest) == ["d", "e"]


def test_a_transaction_before_the_checkpoint_is_known_before_its_first_row() -> None:
    ledger = Ledger(Lsn(200), None)
    assert not ledger.begin(Lsn(192), 1)
    assert ledger.skipping
    ledger.commit(Lsn(200))
    assert ledger.begin(Lsn(200), 1)


def test_a_batch_is_cut_inside_a_transaction_only_when_that_one_fills_it_alone() -> None:
    ledger = Ledger(Lsn(100), None)
    ledger.begin(Lsn(200), 1)
    take(ledger, "a")
    ledger.commit(Lsn(208))
    ledger.begin(Lsn(300), 1)
    take(ledger, "b", "c", "d")
    first = ledger.seal(2, 1 << 30)
    assert first is not None
    assert (names(first), first.end_lsn, first.part) == (["a"], 208, None)
    second = ledger.seal(2, 1 << 30)
    assert second is not None
    assert (names(second), second.end_lsn, second.part) == (["b", "c", "d"], 208, Part(Lsn(300), 3))


def test_bytes_fill_a_batch_as_rows_do() -> None:
    ledger = Ledger(Lsn(100), None)
    ledger.begin(Lsn(200), 1)
    take(ledger, "large", size=1000)
    assert ledger.seal(100, 1001) is None
    sealed = ledger.seal(100, 1000)
    assert sealed is not None
    assert sealed.part == Part(Lsn(200), 1)


@pytest.mark.parametrize("state", ["open", "waiting"])
def test_a_keepalive_counts_for_nothing_while_something_is_open_or_waits(state: str) -> None:
    ledger = Ledger(Lsn(100), None)
    ledger.begin(Lsn(200), 1)
    take(ledger, "a")
    if state == "waiting":
        ledger.commit(Lsn(208))
    ledger.keepalive(Lsn(900))
    assert ledger.seal_idle() is None


def test_an_idle_position_is_given_out_once() -> None:
    ledger = Ledger(Lsn(100), None)
    ledger.keepalive(Lsn(300))
    idle = ledger.seal_idle()
    assert idle is not None
    assert (idle.records, idle.end_lsn, idle.part) == ([], 300, None)
    assert ledger.seal_idle() is None
    ledger.keepalive(Lsn(200))
    assert ledger.seal_idle() is None
