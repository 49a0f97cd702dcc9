"""A Kafka of one transactional id: the log of the event topic, the checkpoint partition, and the coordinator between.

The coordinator speaks the old transaction protocol, as librdkafka does: the epoch moves with `init_transactions` and
with a timeout, not with each transaction, so a late request of an earlier transaction is one of the present one's. A
Produce counts only into a partition that the open transaction knows (the broker's part of KIP-890).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final

from simulation.checks import Violation
from simulation.database import START

from dovetail_relay.errors import KafkaUnavailable
from dovetail_relay.nouns import Checkpoint, Lsn, Position

CHECKPOINT: Final = 2  # the checkpoint's partition; 0 and 1 are the event topic's


class Refused(Exception):
    """A call that the client raises from. `fenced` is `_FENCED`; anything else is just as fatal."""

    def __init__(self, *, fenced: bool) -> None:
        super().__init__("fenced" if fenced else "fatal")
        self.fenced = fenced


class Answer(Enum):
    """How a commit came back."""

    QUICK = 0
    SLOW = 1
    TIMED_OUT = 2


class Transaction:
    __slots__ = ("checkpoint", "committed", "partitions")

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.checkpoint: Checkpoint | None = None
        self.committed = False


class Producer:
    """What a client remembers: its epoch, and which partitions it has told the coordinator of."""

    __slots__ = ("epoch", "failed", "fatal", "knows", "registered")

    def __init__(self, epoch: int, knows: int) -> None:
        self.epoch = epoch
        # Partitions of the event topic, as far as it has heard.
        self.knows = knows
        self.fatal = False
        self.begin()

    def begin(self) -> None:
        self.registered: set[int] = set()
        self.failed = False


class Weather:
    """How likely each misfortune is, while the faults last."""

    __slots__ = ("commit", "delivery", "down", "init", "overtaking", "read")

    def __init__(self) -> None:
        self.down = False
        self.overtaking = False
        self.clear()

    def clear(self) -> None:
        self.commit = self.delivery = self.init = self.read = 0.0
        self.down = False


class Broker:
    def __init__(self, chance: Callable[[], float], seen: Counter[str]) -> None:
        self._chance = chance
        self._seen = seen
        self.weather = Weather()
        self.events: list[tuple[int, Transaction | None]] = []
        self.newest: Checkpoint | None = None
        self.durable_end: Lsn = START  # how far the log was published by a committed checkpoint
        self.positions: set[Position] = set()
        self.epoch = 0
        self.open: Transaction | None = None
        self._last: bool | None = None  # how the last transaction of this epoch ended
        self.late: list[tuple[int, bool]] = []  # EndTxn requests under way: epoch, commit or abort
        self.out_of_order = False
        self.forgot = False
        # Records that are too large for the topic as it is set now, and topics that are not there.
        self.refuses: set[int] = set()
        self.missing: set[str] = set()
        self.has_refused = False
        # How many the event topic has, and how many somebody has ever recorded.
        self.partitions = 2
        self.most_partitions: Callable[[], int] = lambda: 2
        # What a torn checkpoint said may be taken back.
        self.may_go_back = False

    # -- the client's calls -------------------------------------------------------------------------------------------

    def init(self) -> Producer | None:
        """`init_transactions`: aborts what is open and fences its owner. None where it timed out, done or not."""
        if self.weather.down or self._chance() < self.weather.init / 2:
            return None
        self.fence()
        return None if self._chance() < self.weather.init / 2 else Producer(self.epoch, self.partitions)

    def produce(self, producer: Producer, partition: int, what: int | Checkpoint) -> None:
        """One record on its way; a failure shows at the flush, and nothing is sent behind it."""
        if producer.failed:
            return
        if self.weather.down or (self.weather.delivery and self._chance() < self.weather.delivery):
            producer.failed = True
            return
        self._admit(producer)
        if self.out_of_order:
            self.out_of_order = False
            producer.fatal = True
            raise Refused(fenced=False)
        if partition not in producer.registered:
            producer.registered.add(partition)
            self.add_partition(partition)
        transaction = self.open
        if transaction is None or partition not in transaction.partitions:
            producer.failed = True
        elif isinstance(what, int):
            self.events.append((what, transaction))
        else:
            transaction.checkpoint = what

    def commit(self, producer: Producer) -> Answer:
        """EndTxn(commit), with what the network makes of it."""
        weather, chance = self.weather, self._chance
        if weather.down:
            self._send_later(producer, how=chance())
            return Answer.TIMED_OUT
        if weather.commit and chance() < weather.commit:
            return self._commit_astray(producer)
        self._admit(producer)
        self._end(commit=True, producer=producer)
        if weather.overtaking and chance() < 0.5:
            self.late.append((producer.epoch, True))
        return Answer.QUICK

    def abort(self, producer: Producer) -> None:
        """EndTxn(abort), which the relay never sends: only a planted mistake does. The client retries it unseen."""
        self._admit(producer)
        self._end(commit=False, producer=producer)
        if self._chance() < 0.5:
            self.late.append((producer.epoch, False))

    def append(self, row: int) -> bool:
        """A record of the plain idempotent producer (at_least_once): nothing fences it."""
        if self.weather.down or (self.weather.delivery and self._chance() < self.weather.delivery):
            return False
        self.events.append((row, None))
        return True

    def read(self) -> Checkpoint | None:
        """The newest committed checkpoint; an open transaction below the high watermark holds the reader back."""
        if self.weather.down or self._chance() < self.weather.read:
            raise KafkaUnavailable("no broker answers")
        if self.open is not None and self.open.checkpoint is not None:
            raise KafkaUnavailable("held back by an open transaction")
        return self.newest

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def fence(self) -> None:
        """InitProducerId, or the end of a transaction's time."""
        if self.open is not None:
            self._seen["open transaction aborted by the epoch"] += 1
        self.open = None
        self.epoch += 1
        self._last = None
        self.out_of_order = False

    def add_partition(self, partition: int) -> None:
        if self.open is None:
            self.open = Transaction()
        self.open.partitions.add(partition)

    def deliver_late(self, at: int) -> None:
        """One EndTxn that was under way for a while arrives."""
        epoch, commit = self.late.pop(at)
        kind = "commit" if commit else "abort"
        if epoch != self.epoch:
            self._seen[f"late EndTxn({kind}) refused by the epoch"] += 1
            return
        self._seen[f"late EndTxn({kind}) {'ended a transaction' if self.open else 'found nothing open'}"] += 1
        self._finish(commit=commit)

    def note_growth(self) -> None:
        self._seen["a producer that knows of more partitions commits nothing"] += 1

    def late_produce(self) -> None:
        """A duplicate of an earlier Produce: never written, but the sequence numbers are out of step after it."""
        if self.open is None:
            self.out_of_order = True

    def forget(self) -> None:
        """Somebody deletes the checkpoint topic, and makes it anew."""
        self.newest = None
        self.forgot = True

    def visible(self) -> list[int]:
        """What a `read_committed` reader sees, in the order of the log."""
        return [row for row, transaction in self.events if transaction is None or transaction.committed]

    def _admit(self, producer: Producer) -> None:
        if producer.fatal or producer.epoch != self.epoch:
            fenced = not producer.fatal
            producer.fatal = True
            raise Refused(fenced=fenced)

    def _commit_astray(self, producer: Producer) -> Answer:
        how = self._chance()
        if how < 0.5:
            self._send_later(producer, how=how * 2)
            return Answer.TIMED_OUT
        self._admit(producer)
        self._end(commit=True, producer=producer)
        if how < 0.75:
            self._seen["commit applied, answer lost"] += 1
            return Answer.TIMED_OUT
        # A silent retry inside the call: its twin is still under way.
        self.late.append((producer.epoch, True))
        self._seen["slow commit"] += 1
        return Answer.SLOW

    def _send_later(self, producer: Producer, *, how: float) -> None:
        if how < 0.5:
            self.late.append((producer.epoch, True))
        self._seen["commit not applied"] += 1

    def _end(self, *, commit: bool, producer: Producer) -> None:
        if self.open is None and self._last is not commit:
            producer.fatal = True
            raise Refused(fenced=False)  # INVALID_TXN_STATE
        if commit and self.open is not None:
            self._within_what_is_recorded(self.open.partitions)
        self._finish(commit=commit)

    def _within_what_is_recorded(self, partitions: set[int]) -> None:
        """Asked of what the relay commits: a late commit of its own may end a transaction that it was to give up."""
        known = self.most_partitions()
        if max(partitions, default=0) > max(CHECKPOINT, known):
            raise Violation(f"committed to partition {max(partitions)}, where {known} are recorded")

    def _finish(self, *, commit: bool) -> None:
        transaction, self.open = self.open, None
        if transaction is None:
            return
        self._last = commit
        transaction.committed = commit
        if commit and transaction.checkpoint is not None:
            self._extend_chain(transaction.checkpoint)

    def _extend_chain(self, found: Checkpoint) -> None:
        before = self.newest
        self.newest, self.durable_end = found, found.end_lsn
        self.positions.add(found.position())
        if before is None:
            if found.seq != 1 and not self.forgot:
                raise Violation(f"the first checkpoint has seq {found.seq}")
            return
        if found.seq != before.seq + 1:
            raise Violation(f"checkpoint seq went from {before.seq} to {found.seq}")
        if found.epoch > before.epoch or self.may_go_back:
            return
        part, had = found.part, before.part
        index = part.next_index if part is not None else 0
        same = had is not None and found.end_lsn == before.end_lsn
        if found.end_lsn < before.end_lsn or (same and had is not None and index < had.next_index):
            raise Violation(f"the checkpoint went back: {before.position()} to {found.position()}")
