"""The nouns that the rooms hand to each other. This module imports nothing of ours.

`Lsn` is a position in the write-ahead log: 64 bits, printed as PostgreSQL prints it (`16/B374D848`). It is a type of its
own so that a row count or an epoch can never be taken for one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, NewType

Lsn = NewType("Lsn", int)

LSN_ZERO = Lsn(0)


def lsn_text(lsn: Lsn) -> str:
    """`16/B374D848`, as PostgreSQL prints it and accepts it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> Lsn:
    """The inverse of `lsn_text`; raises ValueError on anything else."""
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
        raise ValueError(f"{text!r} is not an LSN such as 16/B374D848")
    return Lsn(int(high, 16) << 32 | int(low, 16))


class Delivery(StrEnum):
    """The two delivery modes; `exactly_once` is the default."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class Record(NamedTuple):
    """What goes to Kafka, in the argument order of `Producer.produce`.

    A named tuple and not a dataclass: one is made per row on the hot path, and a tuple is the cheapest thing that has
    names.
    """

    topic: str
    value: bytes | None
    key: bytes
    headers: list[tuple[str, bytes]]


class Part(NamedTuple):
    """How far into one large transaction the checkpoint has come.

    `commit_lsn` is the transaction's `Begin.final_lsn`; `next_index` counts decoded rows, parked ones included.
    """

    commit_lsn: Lsn
    next_index: int
