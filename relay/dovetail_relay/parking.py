"""What is held back, and why: the judgement on rows that cannot go out, and on those of their key that come after.

Pure and single-threaded. A stuck message holds its key: what comes later for the key waits behind it, in order, while
other keys flow. What is known here is known of rows that will stream again: where Kafka has refused a record, the batch
is given up, the stream begins again at the checkpoint, and the row is judged stuck when it comes by. So there is one
way into `dovetail.parked`, whatever the cause, and a restart at any moment does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

from dovetail_relay.errors import StuckMessage
from dovetail_relay.nouns import (
    Hold,
    Lsn,
    OutboxRow,
    Parked,
    ParkedState,
    Place,
    Record,
    dead_letter_topic,
    text_of,
    unrouted,
)

# The reason of a row that is well itself and waits for one before it.
BEHIND: Final = "behind"
REFUSED: Final = "refused"
TOPIC: Final = "topic"
# A row that ends the process is never tried again, and is found alone in its batch. One at which the relay's code fails
# is like any other that cannot go out: another release may handle it.
CRASH: Final = "crash"
UNHANDLED: Final = "unhandled"
# As long as a key of the outbox may be.
_LONGEST_KEY: Final = 1024
_STATE_OF: Final = {
    "hold": ParkedState.PARKED,
    "halt": ParkedState.HALTING,
    "skip": ParkedState.DEAD_LETTERED,
}


class Parking:
    """The held keys and what else is known in advance. `policy` gives a route's `on_stuck` for an aggregate type.

    `busy` is False nearly always: then no row is looked at one by one.
    """

    __slots__ = ("_policy", "_refusals", "busy", "closed", "condemned", "feared", "held", "refused")

    def __init__(self, policy: Callable[[str], str]) -> None:
        self._policy = policy
        self.held: set[Hold] = set()
        # Rows that an operator discards where the relay stands before them.
        self.condemned: frozenset[Place] = frozenset()
        # What Kafka has refused: single records, and whole topics that are missing or may not be written to.
        self.refused: dict[Place, str] = {}
        self._refusals: Counter[Place] = Counter()
        self.closed: dict[str, str] = {}
        # Rows that have ended the relay's process: they are not touched again.
        self.feared: set[Place] = set()
        self.busy = False

    def begin(self, held: Iterable[Hold], condemned: Iterable[Place], feared: Iterable[Place] = ()) -> None:
        """A stream begins: what the database says is held, which no row that was only in memory may add to."""
        self.held = set(held)
        self.condemned = frozenset(condemned)
        self.feared.update(feared)
        self._look()

    def refuse(self, place: Place, code: str) -> None:
        """Kafka refuses the record of the row at `place` for what it is."""
        self.refused[place] = code
        self._refusals[place] += 1
        self._look()

    def close(self, topic: str, why: str) -> None:
        """No record can go to `topic`."""
        self.closed[topic] = why
        self._look()

    def open_all(self) -> None:
        """Try every topic again: somebody may have made it meanwhile."""
        self.closed.clear()
        self._look()

    def free(self, hold: Hold) -> None:
        """The queue of `hold` is empty."""
        self.held.discard(hold)
        self._look()

    def passed(self, end_lsn: Lsn) -> None:
        """The checkpoint has come to `end_lsn`: rows before it never stream again."""
        for place in [place for place in self.refused if place.commit_lsn < end_lsn]:
            del self.refused[place], self._refusals[place]
        self._look()

    def before(self, place: Place, event_id: str) -> None:
        """Whether a row may be touched at all. Raises StuckMessage."""
        if place in self.feared:
            raise StuckMessage("it has ended the relay's process each time", event_id=event_id, reason=CRASH)

    def of_record(self, record: Record, row: OutboxRow, place: Place, event_id: str) -> Parked | None:
        """Whether a row that could be made into `record` waits all the same. Raises StuckMessage for a refused one."""
        hold = self._hold(record.topic, text_of(row[1]), record.key)
        if place in self.condemned:
            return _discarded(place, hold, row)
        if hold in self.held:
            return Parked(place, hold, BEHIND, "waits behind a stuck message of its key", ParkedState.PARKED, row)
        why = self.closed.get(record.topic)
        if why is not None:
            raise StuckMessage(f"topic {record.topic} {why}", event_id=event_id, topic=record.topic, reason=TOPIC)
        code = self.refused.get(place)
        if code is not None:
            raise StuckMessage(f"Kafka refuses it: {code}", event_id=event_id, topic=record.topic, reason=REFUSED)
        return None

    def of_stuck(self, stuck: StuckMessage, row: OutboxRow, place: Place, topic: str | None) -> Parked:
        """What becomes of a row that cannot go out: by the policy of its route, or with its key where that is held.

        `topic` is where rows of its aggregate type go, None where that is unknown.
        """
        aggregatetype = text_of(row[1])
        hold = self._hold(topic, aggregatetype, row[2])
        if place in self.condemned:
            return _discarded(place, hold, row)
        state = _STATE_OF[self._policy(aggregatetype)]
        if stuck.reason in (CRASH, UNHANDLED) and state is ParkedState.DEAD_LETTERED:
            # A dead letter is handed to Kafka like any record: this row is not touched again.
            state = ParkedState.PARKED
        letter = state is ParkedState.DEAD_LETTERED
        if hold in self.held or (letter and (topic is None or not self._can_be_dead_letter(stuck, hold, place))):
            state = ParkedState.PARKED
        if state is ParkedState.PARKED:
            self.held.add(hold)
            self._look()
        return Parked(place, hold, stuck.reason, str(stuck), state, row)

    def _hold(self, topic: str | None, aggregatetype: str, key: bytes) -> Hold:
        """The queue of a row: that of its topic, unless rows of its type and key wait since before there was a route.

        They are still the ones before it, and would be overtaken.
        """
        key = _in_index(key)
        waiting = (unrouted(aggregatetype), key)
        return waiting if topic is None or waiting in self.held else (topic, key)

    def _can_be_dead_letter(self, stuck: StuckMessage, hold: Hold, place: Place) -> bool:
        """A dead letter that Kafka refuses as well must not be lost for it: it is held."""
        refusals_of_the_record = 1 if stuck.reason == REFUSED else 0
        return dead_letter_topic(hold[0]) not in self.closed and self._refusals[place] <= refusals_of_the_record

    def _look(self) -> None:
        self.busy = bool(self.held or self.condemned or self.refused or self.closed or self.feared)


def _discarded(place: Place, hold: Hold, row: OutboxRow) -> Parked:
    return Parked(place, hold, "discarded", "discarded by an operator", ParkedState.DISCARDED, row)


def _in_index(key: bytes) -> bytes:
    """The key as the queue's index takes it: in a table that is not ours it may be longer than an entry can be."""
    return key if len(key) <= _LONGEST_KEY else b"sha256:" + sha256(key).digest()
