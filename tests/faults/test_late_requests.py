"""Requests that Kafka gets late, twice or never, and answers that get lost, with the real relay under load.

Each test is a row of what can happen to one request of the old transaction protocol. The proxy places a late request
exactly where it would hurt most: before a given request of the next transaction.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from dovetail_local.stack import Stack
from support.kafka_proxy import Api, Error, Fate, KafkaProxy, Rule
from support.relay import RelayProcess
from support.waiting import wait_until
from support.world import World, new_world

# Reasons to give a producer up, as the metric's label has them.
SLOW_COMMIT = "slow commit"
TIMED_OUT = "_TIMED_OUT"
FENCED = "_FENCED"
OUT_OF_ORDER = "OUT_OF_ORDER_SEQUENCE_NUMBER"
EVENTS, CHECKPOINT = "events", "checkpoint"
MORE_EVENTS = 40
ATTEMPTS = 4


@pytest.fixture(scope="module")
def proxy(stack: Stack) -> Iterator[KafkaProxy]:
    with KafkaProxy(stack.endpoints().bootstrap_servers) as made:
        yield made


@dataclass
class Case:
    """One relay under load behind the proxy; `run` is its test's body."""

    proxy: KafkaProxy
    world: World
    relay: RelayProcess

    def topic_of(self, what: str) -> bytes:
        """What is only in requests that speak of this topic."""
        return (self.world.topic if what == EVENTS else self.world.settings().checkpoint_topic).encode()

    def recycles(self, reason: str) -> float:
        found = self.relay.metrics("dovetail_recycles_total")
        return sum(count for labels, count in found.items() if reason in labels)

    def published(self) -> float:
        return self.relay.metric("dovetail_events_published_total")

    def goes_on(self) -> None:
        """Until it has published so many more."""
        wanted = self.published() + MORE_EVENTS
        wait_until(lambda: self.published() >= wanted, 30, f"it goes on; its log:\n{self.relay.log()[-2000:]}")

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Writers around the body; afterwards the books must balance and nothing of the proxy may have gone wrong."""
        process = self.relay.process
        with self.world.writers(count=2) as writers:
            self.goes_on()
            yield
            self.goes_on()
        self.proxy.forget()
        self.world.wait_until_published()
        books = self.world.books(writers.tally.rolled_back_ids)
        assert books.ok, str(books)
        assert books.committed == books.published > 0
        assert process.poll() is None, "a request that came late is no reason to end"
        assert self.proxy.aborts == 0, "an abort that comes late takes the next transaction's events with it"
        assert not self.proxy.errors

    def late_from_the_living(self, api: Api, of: str, moment: Moment, wanted: Error) -> None:
        """A request of the relay's own producer is repeated on its way, then comes twice more, and is answered so.

        The broker and the producer have their own pace: where a slow commit ended the producer in between, or a commit
        was not through yet, once more.
        """
        answers = []
        for _ in range(ATTEMPTS):
            late = self.proxy.on(api, Fate.CUT, containing=self.topic_of(of))
            moment(self, late, (late, late)).wait()
            answers.append(late.answers)
            if set(late.answers) == {wanted}:
                return
        raise AssertionError(f"{wanted.name} twice is expected, answered was {answers}")

    @contextmanager
    def recycled(self, reason: str) -> Iterator[None]:
        """The body made it give up a producer for this reason."""
        before = self.recycles(reason)
        yield
        wait_until(lambda: self.recycles(reason) > before, 30, f"a producer is given up for {reason}")


@pytest.fixture(scope="module")
def leading(stack: Stack, proxy: KafkaProxy) -> Iterator[Case]:
    with new_world(stack, DOVETAIL_KAFKA__BOOTSTRAP_SERVERS=proxy.bootstrap_servers) as world:
        yield Case(proxy, world, world.relay().wait_streaming())


Moment = Callable[[Case, Rule, tuple[Rule, ...]], Rule]


def before_the_next_events(case: Case, after: Rule, late: tuple[Rule, ...]) -> Rule:
    return case.proxy.on(Api.ADD_PARTITIONS_TO_TXN, containing=case.topic_of(EVENTS), after=after, delivers=late)


def between_events_and_checkpoint(case: Case, after: Rule, late: tuple[Rule, ...]) -> Rule:
    events = case.proxy.on(Api.PRODUCE, containing=case.topic_of(EVENTS), after=after)
    return case.proxy.on(Api.ADD_PARTITIONS_TO_TXN, containing=case.topic_of(CHECKPOINT), after=events, delivers=late)


def before_the_commit(case: Case, after: Rule, late: tuple[Rule, ...]) -> Rule:
    checkpoint = case.proxy.on(Api.PRODUCE, containing=case.topic_of(CHECKPOINT), after=after)
    return case.proxy.on(Api.END_TXN, after=checkpoint, delivers=late)


MOMENTS: tuple[Moment, ...] = (before_the_next_events, between_events_and_checkpoint, before_the_commit)


# -- EndTxn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_commit_overtaken_by_its_hidden_retry_is_refused_when_it_comes(leading: Case, moment: Moment) -> None:
    with leading.under_load(), leading.recycled(SLOW_COMMIT):
        late = leading.proxy.on(Api.END_TXN, Fate.CUT)
        fenced = leading.proxy.on(Api.INIT_PRODUCER_ID, after=late)
        moment(leading, fenced, (late, late)).wait()
    assert late.answers == [Error.INVALID_PRODUCER_EPOCH] * 2


def test_a_commit_whose_connection_is_reset_costs_one_producer_and_no_more(leading: Case) -> None:
    with leading.under_load():
        for _ in range(3):
            with leading.recycled(SLOW_COMMIT):
                leading.proxy.on(Api.END_TXN, Fate.CUT).wait()


def test_a_commit_whose_answer_is_lost_is_asked_for_again_and_costs_one_producer(leading: Case) -> None:
    with leading.under_load(), leading.recycled(SLOW_COMMIT):
        leading.proxy.on(Api.END_TXN, Fate.CUT_ANSWER).wait()


def test_a_commit_that_never_arrived_is_found_out_and_refused_when_it_comes_after_all(leading: Case) -> None:
    with leading.under_load(), leading.recycled(TIMED_OUT):
        late = leading.proxy.on(Api.END_TXN, Fate.HANG)
        fenced = leading.proxy.on(Api.INIT_PRODUCER_ID, after=late)
        before_the_commit(leading, fenced, (late, late)).wait()
    assert late.answers == [Error.INVALID_PRODUCER_EPOCH] * 2


def test_a_commit_that_was_done_in_silence_is_found_out(leading: Case) -> None:
    with leading.under_load(), leading.recycled(TIMED_OUT):
        leading.proxy.on(Api.END_TXN, Fate.HANG_ANSWER).wait()


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_buried_producer_still_says_is_refused(leading: Case, moment: Moment) -> None:
    with leading.under_load(), leading.recycled(SLOW_COMMIT):
        late = leading.proxy.on(Api.END_TXN, Fate.CUT)
        fenced = leading.proxy.on(Api.INIT_PRODUCER_ID, after=late)
        frame = late.wait().request.frame
        # Nothing of ours sends an abort; should one come from a buried producer all the same, it must hit nothing.
        assert frame[-1] == 1, "the last byte of EndTxn says whether to commit"
        late.becomes(frame[:-1] + bytes(1))
        moment(leading, fenced, (late, late)).wait()
    assert late.answers == [Error.INVALID_PRODUCER_EPOCH] * 2


# -- AddPartitionsToTxn -----------------------------------------------------------------------------------------------


def after_the_commit(case: Case, after: Rule, late: tuple[Rule, ...]) -> Rule:
    """In between two transactions of one producer: no request of the next has come yet."""
    committed = case.proxy.on(Api.END_TXN, after=after)
    return case.proxy.on(Api.ADD_PARTITIONS_TO_TXN, after=committed, delivers=late)


def in_the_next_transaction(case: Case, after: Rule, late: tuple[Rule, ...]) -> Rule:
    committed = case.proxy.on(Api.END_TXN, after=after)
    return before_the_commit(case, committed, late)


ANY_MOMENT = [
    (EVENTS, before_the_commit),
    (EVENTS, after_the_commit),
    (EVENTS, in_the_next_transaction),
    (CHECKPOINT, after_the_commit),
]


@pytest.mark.parametrize(("of", "moment"), ANY_MOMENT)
def test_partitions_that_are_added_late_and_twice_cost_nothing(leading: Case, moment: Moment, of: str) -> None:
    with leading.under_load():
        # The producer lives on: it is told yes, whichever of its transactions they land in.
        leading.late_from_the_living(Api.ADD_PARTITIONS_TO_TXN, of, moment, Error.NONE)


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_ANSWER])
def test_partitions_that_never_arrive_or_whose_answer_is_lost_cost_nothing(leading: Case, fate: Fate) -> None:
    with leading.under_load():
        leading.proxy.on(Api.ADD_PARTITIONS_TO_TXN, fate, containing=leading.topic_of(EVENTS)).wait()


def test_partitions_added_late_to_an_idle_producer_end_it_and_not_the_relay(stack: Stack, proxy: KafkaProxy) -> None:
    given = {"DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": proxy.bootstrap_servers}
    short = {"DOVETAIL_KAFKA__TRANSACTION_TIMEOUT_MS": "8100", "DOVETAIL_KAFKA__MESSAGE_TIMEOUT_MS": "8000"}
    short |= {"DOVETAIL_KAFKA__SOCKET_TIMEOUT_MS": "8100"}
    with new_world(stack, **given, **short) as world:
        case = Case(proxy, world, world.relay().wait_streaming())
        with case.under_load():
            late = proxy.on(Api.ADD_PARTITIONS_TO_TXN, containing=case.topic_of(EVENTS))
            late.wait()
        # Nothing is written now; frozen, the relay does not even move its checkpoint. The transaction that the late
        # request opens outlives its timeout, and the coordinator fences the producer that never began it.
        with case.recycled(FENCED):
            case.relay.signal(signal.SIGSTOP)
            assert late.deliver() is Error.NONE
            wait_until(lambda: late.deliver() is not Error.NONE, 30, "the coordinator has ended the transaction")
            case.relay.signal(signal.SIGCONT)
            with case.under_load():
                pass


# -- Produce ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "moment"), ANY_MOMENT)
def test_records_that_come_late_and_twice_are_written_once(leading: Case, moment: Moment, of: str) -> None:
    with leading.under_load():
        if moment is after_the_commit:
            # Refused, and the broker's books of that partition are closed with it: the producer cannot go on.
            with leading.recycled(OUT_OF_ORDER):
                leading.late_from_the_living(Api.PRODUCE, of, moment, Error.INVALID_TXN_STATE)
        else:
            # Known already: answered as written, and not written.
            leading.late_from_the_living(Api.PRODUCE, of, moment, Error.NONE)


@pytest.mark.parametrize("of", [EVENTS, CHECKPOINT])
@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_ANSWER])
def test_records_that_never_arrive_or_whose_answer_is_lost_are_written_once(leading: Case, fate: Fate, of: str) -> None:
    with leading.under_load():
        leading.proxy.on(Api.PRODUCE, fate, containing=leading.topic_of(of)).wait()


# -- InitProducerId ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fencing_that_comes_late_fences_a_producer_and_not_the_relay(leading: Case, moment: Moment) -> None:
    with leading.under_load(), leading.recycled(FENCED):
        # A reset under a commit makes it fence; that request is held back, and the relay asks once more.
        leading.proxy.on(Api.END_TXN, Fate.CUT).wait()
        late = leading.proxy.on(Api.INIT_PRODUCER_ID, Fate.CUT)
        fenced = leading.proxy.on(Api.INIT_PRODUCER_ID, after=late)
        moment(leading, fenced, (late, late)).wait()
    # Either it fences at once, or it first ends the transaction that is open, with its producer.
    assert set(late.answers) <= {Error.NONE, Error.CONCURRENT_TRANSACTIONS}
    assert len(late.answers) == 2


@pytest.mark.parametrize("fate", [Fate.CUT, Fate.CUT_ANSWER])
def test_a_fencing_that_never_arrives_or_whose_answer_is_lost_is_done_again(leading: Case, fate: Fate) -> None:
    with leading.under_load(), leading.recycled(SLOW_COMMIT):
        leading.proxy.on(Api.END_TXN, Fate.CUT).wait()
        asked = leading.proxy.counts["INIT_PRODUCER_ID"]
        leading.proxy.on(Api.INIT_PRODUCER_ID, fate).wait()
        wait_until(lambda: leading.proxy.counts["INIT_PRODUCER_ID"] >= asked + 2, 20, "it asks again")
