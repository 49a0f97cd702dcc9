"""This tier needs root: it says so in one line, and skips nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.root import NotPossible, SmallDisks, demand


def pytest_configure() -> None:
    try:
        demand()
    except NotPossible as reason:
        raise pytest.UsageError(str(reason)) from None


@pytest.fixture
def disks() -> Iterator[SmallDisks]:
    """Asked for before the servers that work on them, hence taken away after those have ended."""
    made = SmallDisks()
    try:
        yield made
    finally:
        made.close()
