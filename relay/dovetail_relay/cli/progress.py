"""How far a long command has come: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dovetail_relay.cli.words import say

if TYPE_CHECKING:
    from dovetail_relay.source.commands import Command

Say = Callable[[str], None]
Show = Callable[["Command"], None]


@contextmanager
def shown(total: int | None, done: Callable[[Command], int]) -> Iterator[tuple[Say, Show | None]]:
    """How to speak, and what to call at each look; without a terminal, or a total, there is nothing to call."""
    if not total or not sys.stderr.isatty():
        yield say, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield (
            lambda text: bar.console.print(text, markup=False, highlight=False),
            lambda command: bar.update(task, completed=done(command)),
        )
