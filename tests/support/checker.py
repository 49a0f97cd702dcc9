"""The invariants, as named functions over what the database holds and what a reader of the topic saw.

Writers take a key's next number under that key's row lock, so the committed rows of a key are 1, 2, 3 … in commit
order: one dense-sequence test over the topic finds loss, duplicate, inversion and phantom; the sets of ids are compared
besides, and what was rolled back is looked for by id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Seen(NamedTuple):
    """One event: from the outbox table, or as a `read_committed` reader saw it, in the order of its partition."""

    event_id: str
    key: str
    number: int


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

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.phantom or self.rolled_back_visible or self.out_of_order)

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {len(getattr(self, name))}"
            for name in ("lost", "duplicated", "phantom", "rolled_back_visible", "out_of_order")
        )
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
    )
