"""`publish/kafka.py` and `publish/at_least_once.py` against the simulated broker, step for step.

The same order of calls, the same outcomes; `yield` stands wherever the process may be killed or frozen, or another
may do something in between. What runs on the relay's side thread is a generator; its return value is the result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from simulation.broker import CHECKPOINT, Answer, Broker, Producer, Refused

from dovetail_relay.nouns import Checkpoint, Record
from dovetail_relay.publish.port import Outcome, Result

# An Outcome of `settle`; of a fencing (what it found,), or False to try again.
Done = Outcome | bool | tuple[Checkpoint | None]
Job = Generator[None, None, Done]

COMMITTED = Outcome(Result.COMMITTED, "", all_acknowledged=True)
DELIVERED = Outcome(Result.DELIVERED, "", all_acknowledged=True)
UNKNOWN = Outcome(Result.UNKNOWN, "unknown", all_acknowledged=False)
UNKNOWN_ACKNOWLEDGED = Outcome(Result.UNKNOWN, "unknown", all_acknowledged=True)
FENCED = Outcome(Result.FENCED, "fenced", all_acknowledged=False)
FENCED_ACKNOWLEDGED = Outcome(Result.FENCED, "fenced", all_acknowledged=True)


def rows_of(records: list[Record]) -> list[tuple[int, int]]:
    """(partition, row) of each record: a key stays in its partition."""
    return [(record.key[0] & 1, int(record.value or b"")) for record in records]


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

    def fence(self) -> bool:
        self._producer = self._broker.init()
        return self._producer is not None

    def read(self) -> Checkpoint | None:
        return self._broker.read()

    def send(self, records: list[Record]) -> Outcome | None:
        producer = self._live()
        if producer.fatal:
            return self._unknown(FENCED)
        producer.begin()
        self._sent = rows_of(records)
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Job:
        del write
        producer, broker = self._live(), self._broker
        acknowledged = False
        try:
            if self.checkpoint_first:
                broker.produce(producer, CHECKPOINT, checkpoint)
            half = len(self._sent) // 2
            for at, (partition, row) in enumerate(self._sent):
                if at == half:
                    yield
                broker.produce(producer, partition, row)
            yield
            if self._unfinished(producer):
                return self._unknown(UNKNOWN)
            acknowledged = True
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
        return COMMITTED if answer in self.trusted else self._unknown(UNKNOWN_ACKNOWLEDGED)

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

    # A record that timed out is dropped while later ones of its partition go on: `enable.gapless.guarantee` does not
    # cover timeouts. False: a failure takes the rest of its partition with it.
    holes: bool = False

    def send(self, records: list[Record]) -> Outcome | None:
        self._sent = rows_of(records)
        return None

    def settle(self, checkpoint: Checkpoint, *, write: bool) -> Job:
        broken: set[int] = set()
        half = len(self._sent) // 2
        for at, (partition, row) in enumerate(self._sent):
            if at == half:
                yield
            if (self.holes or partition not in broken) and not self._broker.append(row):
                broken.add(partition)
        yield
        if broken:
            return UNKNOWN
        if not write:
            return DELIVERED
        refused = super().send([])
        if refused is not None:
            return refused
        return (yield from super().settle(checkpoint, write=True))
