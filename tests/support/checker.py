"""The invariants, as named functions over what the database holds and what a reader of the topic saw.

Writers take a key's next number under that key's row lock, so the committed rows of a key are 1, 2, 3 … in commit
order: one dense-sequence test over the topic finds loss, duplicate, inversion and phantom; the sets of ids are compared
besides, and what was rolled back is looked for by id.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple


class Seen(NamedTuple):
    """One event: from the outbox table, or as a `read_committed` reader saw it, in the order of its partition."""

    event_id: str
    key: str
    number: int
    # Only of what was read from a topic.
    partition: int = 0
    position: str = ""


class Sample(NamedTuple):
    """What the server said of the slot, and when it had said so (seconds, wall clock)."""

    at: float
    confirmed_flush: int
    retained_bytes: int


class Written(NamedTuple):
    """A committed checkpoint: when its record was made (seconds, wall clock), and its end_lsn."""

    at: float
    end_lsn: int


class Scrape(NamedTuple):
    """One look at a relay from outside. `logged` are the halts that its log has named so far, with the next command."""

    status: int
    reason: str
    next: str
    halted: frozenset[str]
    logged: frozenset[tuple[str, str]]


_FINDINGS = ("lost", "duplicated", "phantom", "rolled_back_visible", "out_of_order", "out_of_commit_order")


@dataclass(frozen=True, slots=True)
class Books:
    """What was found. `ok` is the promise."""

    committed: int
    published: int
    lost: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    phantom: tuple[str, ...] = ()
    rolled_back_visible: tuple[str, ...] = ()
    out_of_order: tuple[str, ...] = field(default=())
    out_of_commit_order: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not any(getattr(self, name) for name in _FINDINGS)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(getattr(self, name))}" for name in _FINDINGS)
        return f"committed {self.committed}, published {self.published}, {counts}"


def lost(table: Iterable[Seen], topic: Iterable[Seen]) -> list[str]:
    """I1: committed and not in the topic."""
    return sorted({event.event_id for event in table} - {event.event_id for event in topic})


def phantom(table: Iterable[Seen], topic: Iterable[Seen]) -> list[str]:
    """I2: in the topic and not committed."""
    return sorted({event.event_id for event in topic} - {event.event_id for event in table})


def duplicated(topic: Iterable[Seen]) -> list[str]:
    """I4: in the topic more than once."""
    counts = Counter(event.event_id for event in topic)
    return sorted(event_id for event_id, count in counts.items() if count > 1)


def out_of_order(topic: Sequence[Seen]) -> list[str]:
    """I3: keys whose numbers are not 1, 2, 3 … in the order of the topic; a repeat or a gap counts too."""
    following: Counter[str] = Counter()
    wrong = set()
    for event in topic:
        following[event.key] += 1
        if event.number != following[event.key]:
            wrong.add(event.key)
    return sorted(wrong)


def first_occurrences(topic: Iterable[Seen]) -> list[Seen]:
    """What a reader that drops repeats takes in, in the order of the topic."""
    return list({event.event_id: event for event in reversed([*topic])}.values())[::-1]


def out_of_commit_order(topic: Iterable[Seen]) -> list[str]:
    """I5: events that stand behind one of a later commit in the same partition; only those with a position."""
    newest: dict[int, tuple[int, int, int]] = {}
    wrong = []
    for event in topic:
        if not event.position:
            continue
        epoch, lsn, index = event.position.split("/")
        at = (int(epoch), int(lsn, 16), int(index))
        if at < newest.get(event.partition, at):
            wrong.append(event.event_id)
        newest[event.partition] = max(at, newest.get(event.partition, at))
    return wrong


def forgotten(promised: Iterable[str], table: Iterable[Seen]) -> list[str]:
    """The other half of I1: what a writer was told is committed, and the table does not have."""
    return sorted(set(promised) - {event.event_id for event in table})


def slot_ahead(samples: Iterable[Sample], checkpoints: Sequence[Written], first: int) -> list[Sample]:
    """I11: when PostgreSQL believed a position that no checkpoint had by then.

    `checkpoints` are in the order of their topic. `first` is the slot's first position: up to there nothing was ever
    there to publish.
    """
    # A record's time has milliseconds only.
    rounding = 0.001
    times = [written.at for written in checkpoints]
    # The newest position that was written by each of these times.
    newest = [0, *accumulate((written.end_lsn for written in checkpoints), max)]
    return [
        sample
        for sample in samples
        if sample.confirmed_flush > first and sample.confirmed_flush > newest[bisect_right(times, sample.at + rounding)]
    ]


def pinned(samples: Sequence[Sample], most_bytes: int) -> list[Sample]:
    """I12: the last look, where the server still keeps more WAL for the slot than `most_bytes`; none without a look."""
    return [sample for sample in samples[-1:] if sample.retained_bytes > most_bytes]


def silent(scrapes: Iterable[Scrape]) -> list[Scrape]:
    """I14: not ready without a reason or a next command; a halt that the metric or the log does not name."""
    return [
        scrape
        for scrape in scrapes
        if (scrape.status != 200 and not (scrape.reason and scrape.next))
        or (scrape.reason.isupper() and scrape.reason not in scrape.halted)
        or (scrape.reason.isupper() and (scrape.reason, scrape.next) not in scrape.logged)
    ]


def check(table: Sequence[Seen], topic: Sequence[Seen], rolled_back: Iterable[str] = ()) -> Books:
    """All of them."""
    return Books(
        committed=len(table),
        published=len(topic),
        lost=tuple(lost(table, topic)),
        duplicated=tuple(duplicated(topic)),
        phantom=tuple(phantom(table, topic)),
        rolled_back_visible=tuple(sorted({event.event_id for event in topic} & set(rolled_back))),
        out_of_order=tuple(out_of_order(topic)),
        out_of_commit_order=tuple(out_of_commit_order(topic)),
    )
