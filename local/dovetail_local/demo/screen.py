"""What the demo shows while it runs: a live table on a terminal, a line now and then elsewhere. Words go to stderr."""

import sys
import time
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

_LINE_EVERY_SECONDS = 2.0
_FRAME_SECONDS = 0.1


@dataclass(slots=True)
class Figures:
    """The state of the play, as far as it is known at a moment."""

    act: str = "starting"
    elapsed: float = 0.0
    committed: int = 0
    rolled_back: int = 0
    published: int = 0
    effects: int = 0
    relay_kills: int = 0
    consumer_kills: int = 0

    @property
    def lag(self) -> int:
        """Committed events that a reader of the topic has not seen yet."""
        return max(0, self.committed - self.published)


class Screen(Protocol):
    """Where the demo speaks. Used as a context manager, from one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, words: str) -> None:
        """Write one line that stays."""
        ...

    def show(self, figures: Figures) -> None:
        """Take the newest figures. Cheap to call often: most calls draw nothing."""
        ...


def screen() -> Screen:
    """Give the live screen where standard error is a terminal, else plain lines."""
    console = Console(stderr=True)
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen()


class PlainScreen:
    """For logs and pipes."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._next = 0.0
        self._last: Figures | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._write(self._last)

    def say(self, words: str) -> None:
        """Write one line."""
        sys.stderr.write(words + "\n")
        sys.stderr.flush()

    def show(self, figures: Figures) -> None:
        """Write a line every two seconds."""
        self._last = figures
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY_SECONDS
            self._write(figures)

    def _write(self, figures: Figures) -> None:
        self.say(
            f"{figures.elapsed:5.1f} s  {figures.act}: committed {figures.committed}, rolled back "
            f"{figures.rolled_back}, published {figures.published}, effects {figures.effects}, lag {figures.lag}, "
            f"relay killed {figures.relay_kills}x, consumer killed {figures.consumer_kills}x"
        )


class LiveScreen:
    """For people."""

    def __init__(self, console: Console) -> None:
        """Draw only when there is something new: a thread that redraws by itself would be in the way of forks."""
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._next = 0.0
        self._last: Figures | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._live.update(_panel(self._last), refresh=True)
        self._live.stop()

    def say(self, words: str) -> None:
        """Write one line above the table."""
        self._live.console.print(words, markup=False, highlight=False)

    def show(self, figures: Figures) -> None:
        """Draw at most ten times a second."""
        self._last = figures
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _FRAME_SECONDS
            self._live.update(_panel(figures), refresh=True)


def _panel(figures: Figures) -> Panel:
    table = Table.grid(padding=(0, 3))
    table.add_column(justify="right", style="dim")
    table.add_column(justify="right", style="bold", min_width=7)
    table.add_column()
    rows = (
        ("order service", figures.committed, "events committed"),
        ("", figures.rolled_back, "rolled back, as a whole or to a savepoint"),
        ("relay", figures.published, f"events in Kafka; {figures.lag} to go"),
        ("", figures.relay_kills, "times killed with kill -9"),
        ("shipping service", figures.effects, "effects applied"),
        ("", figures.consumer_kills, "times killed with kill -9"),
    )
    for who, count, what in rows:
        table.add_row(who, f"{count:,}", what)
    title = f"dovetail demo: {figures.act}, {figures.elapsed:.0f} s"
    return Panel(table, title=title, title_align="left", expand=False)
