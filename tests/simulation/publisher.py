"""`publish/kafka.py` and `publish/at_least_once.py` against the simulated broker, step for step.

The same order of calls, the same outcomes; `yield` stands wherever the process may be killed or frozen, or another
may do something in between. What runs on the relay's side thread is a generator; its return value is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from simulation.broker import CHECKPOINT, Answer, Broker, Producer, Refused

from dovetail_relay.errors import PartitionsChanged
from dovetail_relay.fencing import Fenced
from dovetail_relay.nouns import Checkpoint, Record
from dovetail_relay.publish.port import Outcome, Refusal, Result
from dovetail_schemas.headers import REPLAY

if TYPE_CHECKING:
    from simulation.relay import Relay

# What a job on the side thread comes to: an Outcome of `settle`; of a fencing what it found, None to try again.
Done = Outcome | Fenced | None
Job = Generator[None, None, Done]

COMMITTED = Outcome(Result.COMMITTED, "", all_acknowledged=True)
DELIVERED = Outcome(Result.DELIVERED, "", all_acknowledged=True)
UNKNOWN = Outcome(Result.UNKNOWN, "unknown", all_acknowledged=False)
UNKNOWN_ACKNOWLEDGED = Outcome(Result.UNKNOWN, "unknown", all_acknowledged=True)
FENCED = Outcome(Result.UNKNOWN, "fenced", all_acknowledged=False)
FENCED_ACKNOWLEDGED = Outcome(Result.UNKNOWN, "fenced", all_acknowledged=True)


# A dead letter of row n is written as -1 - n, its replay by command c as c * REPLAYED + n.
REPLAYED: Final = 1000


def rows_of(records: list[Record], partitions: int = 2) -> list[tuple[int, int]]:
    """(partition, what) of each record: a key stays in its partition, as long as there are as many."""
    if partitions == 2:
        return [(record.key[0] & 1, _what(record)) for record in records]
    places = [record.key[0] % partitions for record in records]
    # The third is the checkpoint's number.
    return [(at + (at >= CHECKPOINT), _what(record)) for at, record in zip(places, records, strict=True)]


def _what(record: Record) -> int:
    row = int(record.value or b"")
    if record.topic.endswith(".dead-letter"):
        return -1 - row
    name, value = record.headers[-1]
    return row if name != REPLAY else int(value or b"") * REPLAYED + row


class Publisher:
    """exactly_once: events, flush, every delivery checked; only then the checkpoint, flush, commit."""

    # What an earlier design did; the machine's TORN rule exists for it.
    checkpoint_first: ClassVar[bool] = False
    # A slow success may hide a retry whose twin is still under way.
    trusted: ClassVar[tuple[Answer, ...]] = (Answer.QUICK,)

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._producer: Producer | None = None
        self._sent: list[tuple[int, int]] = []
        self._alone = self._alone_next = False
        self.relay: Relay | None = None
        # Partitions of the event topic, as they are recorded.
        self._counted: int | None = None
        self.on_fencing: Callable[[], None] = lambda: None

    def fencing(self) -> Job:
        """`fence_and_read`, with the places in it where something may come between."""
        yield
        self.on_fencing()
        self._producer = self._broker.init()
        self._alone = self._alone_next
        if self._producer is None:
            return None
        yield
        return Fenced(self._broker.read())

    def isolate(self, *, alone: bool) -> None:
        self._alone_next = alone

    def partitions(self, topic: str, timeout: float) -> int | None:
        del timeout
        broker = self._broker
        if topic in broker.missing:
            return None
        return broker.partitions

    def expect(self, counts: Mapping[str, int]) -> None:
        self._counted = counts["orders"]

    def send(self, records: list[Record]) -> Outcome | None:
        producer = self._live()
        if producer.fatal:
            return self._unknown(FENCED)
        producer.begin()
        self._learn(producer)
        self._sent = rows_of(records, producer.knows)
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Job:
        del write
        self._touch()
        producer, broker = self._live(), self._broker
        acknowledged = False
        try:
            if self.checkpoint_first:
                broker.produce(producer, CHECKPOINT, checkpoint)
            half = len(self._sent) // 2
            refusals: list[Refusal] = []
            for at, (partition, row) in enumerate(self._sent):
                if at == half:
                    yield
                if row in broker.refuses:
                    refusals.append(self._refusal(at, row))
                else:
                    broker.produce(producer, partition, row)
            yield
            if refusals:
                return self._unknown(replace(UNKNOWN, refusals=tuple(refusals)))
            if self._unfinished(producer):
                return self._unknown(UNKNOWN)
            acknowledged = True
            self._learn(producer)
            if self._sent and self._counted is not None and producer.knows != self._counted:
                self._producer = None
                broker.note_growth()
                raise PartitionsChanged("the topic has grown")
            if not self.checkpoint_first:
                broker.produce(producer, CHECKPOINT, checkpoint)
                yield
                if self._unfinished(producer):
                    return self._unknown(UNKNOWN_ACKNOWLEDGED)
            answer = broker.commit(producer)
            yield
        except Refused as refused:
            if refused.fenced:
                return self._unknown(FENCED_ACKNOWLEDGED if acknowledged else FENCED)
            return self._unknown(UNKNOWN_ACKNOWLEDGED if acknowledged else UNKNOWN)
        # With each record alone the producer is a slow one, and is given up.
        quick = answer in self.trusted and not self._alone
        return COMMITTED if quick else self._unknown(UNKNOWN_ACKNOWLEDGED)

    def _learn(self, producer: Producer) -> None:
        """The client asks for the topic's partitions when it likes."""
        if producer.knows != self._broker.partitions and self.relay is not None and self.relay.world.aside() < 0.3:
            producer.knows = self._broker.partitions

    def _touch(self) -> None:
        """Raises where the client ends the process."""
        if self.relay is not None and self.relay.world.poison.in_kafka:
            self.relay.world.poison.settle(self.relay, self._sent, REPLAYED)

    def _refusal(self, at: int, row: int) -> Refusal:
        """Of two rows in three the broker answers for the whole request, and says not which it was."""
        self._broker.has_refused = True
        return Refusal("orders", "MSG_SIZE_TOO_LARGE", at if self._alone or row % 3 == 0 else None)

    @staticmethod
    def _unfinished(producer: Producer) -> bool:
        return producer.failed

    def _live(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("this publisher must be fenced before it is used")
        return self._producer

    def _unknown(self, outcome: Outcome) -> Outcome:
        """Never used again, never aborted."""
        self._producer = None
        return outcome


class CheckpointFirst(Publisher):
    """The order that lost an event: kept to show that TORN is found and mended where nothing else goes wrong."""

    checkpoint_first = True


class AtLeastOnce(Publisher):
    """Events by a plain producer, the checkpoint behind them where `write` says so."""

    def __init__(self, broker: Broker, *, holes: bool) -> None:
        """`holes`: a record that timed out is dropped while later ones of its partition go on, since
        `enable.gapless.guarantee` does not cover timeouts. False: a failure takes the rest of its partition with it.
        """
        super().__init__(broker)
        self.holes = holes

    def send(self, records: list[Record]) -> Outcome | None:
        self._sent = rows_of(records)
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Job:
        self._touch()
        broken: set[int] = set()
        refusals: list[Refusal] = []
        half = len(self._sent) // 2
        for at, (partition, row) in enumerate(self._sent):
            if at == half:
                yield
            if row in self._broker.refuses:
                refusals.append(self._refusal(at, row))
            elif (self.holes or partition not in broken) and not self._broker.append(row):
                broken.add(partition)
        yield
        if refusals:
            return replace(UNKNOWN, refusals=tuple(refusals))
        if broken:
            return UNKNOWN
        if not write:
            return DELIVERED
        if self._counted is not None and self._broker.partitions != self._counted:
            self._broker.note_growth()
            raise PartitionsChanged("the topic has grown")
        refused = super().send([])
        if refused is not None:
            return refused
        return (yield from super().settle(checkpoint, write=True))
