"""What must hold, and how a failing seed says that it does not."""

from __future__ import annotations

from dovetail_relay.nouns import Record


class Violation(AssertionError):
    """A promise was broken. `str()` is one line: which."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def exactly_once(visible: list[int], expected: list[int]) -> None:
    """Each row once. The chain of batches puts all rows in commit order, which is more than order by key."""
    if visible != expected:
        complete(visible, expected)
        twice = sorted({row for row in visible if visible.count(row) > 1})
        check(not twice, f"duplicated: rows {twice} of {visible}")
        raise Violation(f"out of order: {visible}")


def complete(visible: list[int], expected: list[int]) -> None:
    """Nothing lost, nothing that was never committed; repeats may be."""
    seen, wanted = set(visible), set(expected)
    check(wanted <= seen, f"lost: rows {sorted(wanted - seen)} of {visible}")
    check(seen <= wanted, f"never committed: rows {sorted(seen - wanted)} of {visible}")


def first_occurrences_in_order(visible: list[int], records: list[Record]) -> None:
    """Each key's rows appear in commit order when repeats are passed over."""
    newest: dict[bytes, int] = {}
    seen: set[int] = set()
    for row in visible:
        if row in seen:
            continue
        seen.add(row)
        key = records[row].key
        check(newest.get(key, -1) < row, f"key {key!r} out of order at row {row}: {visible}")
        newest[key] = row
