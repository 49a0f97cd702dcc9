"""The rows of the outbox."""

from __future__ import annotations

from typing import Final

from dovetail_relay.nouns import OutboxRow

KEYS: Final = (b"a", b"b", b"c")
ROW_BYTES: Final = (3, 1, 2, 5)
# Rows of key c are of a type of their own, for which a route may be missing.
_TYPES: Final = {b"a": b"order", b"b": b"order", b"c": b"fresh"}


def _row(n: int) -> OutboxRow:
    key = KEYS[n * 7 // 3 % 3]
    return (n.to_bytes(16, "big"), _TYPES[key], key, b"placed", b"%d" % n, None, b"avro", b"\x01{}", n)


# Row n is the n-th that was committed. Made once, because a run is shorter than the making of its rows.
ROWS: Final = [_row(n) for n in range(400)]
KEY_OF: Final = [row[2] for row in ROWS]
# Each tenth row is one that the relay counts and does not publish, as a row of another table.
SILENT: Final = 10
