"""What both sides add up to by minute, and which minutes have to be looked at by id. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dovetail_relay.books import NOTHING, minus, plus, total_of
from dovetail_relay.nouns import Sum

MINUTE: Final = 60
HOUR: Final = 3600

# (topic, minute since 1970) -> sum. The topic of a row is the one that its route names today.
Sums = dict[tuple[str, int], Sum]


def put(sums: Sums, topic: str, minute: int, found: Sum) -> None:
    """Add to one place."""
    place = (topic, minute)
    sums[place] = plus(sums.get(place, NOTHING), found)


@dataclass(slots=True)
class Added:
    """Both sides. The checkpoint says that `settled` rows are published, unless they are `parked`; `young` ones may be.

    `states` is what became of the parked ones: (topic, minute, state) -> how many.
    """

    settled: Sums = field(default_factory=dict)
    young: Sums = field(default_factory=dict)
    parked: Sums = field(default_factory=dict)
    published: Sums = field(default_factory=dict)
    states: dict[tuple[str, int, str], int] = field(default_factory=dict)

    def judged(self) -> tuple[list[int], list[int]]:
        """Minutes whose sums do not explain each other, and those whose young rows are all still on their way.

        Of all topics together: an event that went to another topic than its route names today is not lost.
        """
        settled, young, parked, published = (
            _by_minute(side) for side in (self.settled, self.young, self.parked, self.published)
        )
        differing, waiting = [], []
        for minute in sorted(settled.keys() | young.keys() | published.keys()):
            due = minus(settled.get(minute, NOTHING), parked.get(minute, NOTHING))
            found = published.get(minute, NOTHING)
            if found == due:
                waiting.append(minute)
            elif found != plus(due, young.get(minute, NOTHING)):
                differing.append(minute)
        return differing, waiting


class Slice(NamedTuple):
    """Minutes that are looked at by id at one time."""

    minutes: frozenset[int]

    def spans(self) -> Iterator[tuple[int, int]]:
        """The same as spans of seconds [start, end), none of them longer than an hour."""
        start = end = -1
        for minute in sorted(self.minutes):
            if minute != end or minute - start >= HOUR // MINUTE:
                if end > start:
                    yield start * MINUTE, end * MINUTE
                start = minute
            end = minute + 1
        if end > start:
            yield start * MINUTE, end * MINUTE


def sliced(added: Added, minutes: list[int], most: int) -> list[Slice]:
    """The minutes in slices of at most `most` events each; a minute that has more is one by itself."""
    weights: dict[int, int] = {}
    for side in (added.settled, added.young, added.published):
        for (_, minute), found in side.items():
            weights[minute] = weights.get(minute, 0) + found.events
    slices: list[Slice] = []
    current: list[int] = []
    weight = 0
    for minute in minutes:
        if current and weight + weights[minute] > most:
            slices.append(Slice(frozenset(current)))
            current, weight = [], 0
        current.append(minute)
        weight += weights[minute]
    if current:
        slices.append(Slice(frozenset(current)))
    return slices


def _by_minute(sums: Sums) -> dict[int, Sum]:
    found: dict[int, list[Sum]] = {}
    for (_, minute), one in sums.items():
        found.setdefault(minute, []).append(one)
    return {minute: total_of(some) for minute, some in found.items()}
