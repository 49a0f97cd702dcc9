"""Where a record stands in its relay's stream: epoch, commit LSN, index within the transaction.

Positions of one relay only ever grow. LSNs restart lower after a restore or in a new cluster, so the epoch comes
first. The text form goes into the `position` header; its LSN is zero-padded so that it sorts as text as well.
"""

import re
from typing import NamedTuple

from dovetail_schemas.errors import PositionInvalid

_TEXT = re.compile(r"(0|[1-9][0-9]{0,9})/([0-9A-F]{16})/(0|[1-9][0-9]{0,18})", re.ASCII)
_MAX_EPOCH = 2**31 - 1
_MAX_INDEX = 2**63 - 1


class Position(NamedTuple):
    """Compares as a tuple. The constructor does not check: the relay makes one per record."""

    epoch: int
    commit_lsn: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a position

    def __str__(self) -> str:
        return f"{self.epoch}/{self.commit_lsn:016X}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read exactly what `str` writes; anything else raises `PositionInvalid`."""
        match = _TEXT.fullmatch(text)
        if match is not None:
            epoch, commit_lsn, index = int(match[1]), int(match[2], 16), int(match[3])
            if epoch <= _MAX_EPOCH and index <= _MAX_INDEX:
                return cls(epoch, commit_lsn, index)
        shown = f"{text[:80]!r}" if isinstance(text, str) else type(text).__name__
        raise PositionInvalid(f"{shown} is not a position; one looks like 1/0000000001A2B3C8/0")
