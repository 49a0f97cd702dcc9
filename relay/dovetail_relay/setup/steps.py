"""What one step of the set-up came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["done", "there", "missing", "left"]

_WORDS: dict[State, str] = {
    "done": "done",
    "there": "already there",
    "missing": "missing",
    "left": "left alone",
}


@dataclass(frozen=True, slots=True)
class Step:
    """done: it was made now; there: it was made before; missing: it is to be made; left: not ours to make."""

    what: str
    state: State
    detail: str = ""

    def line(self) -> str:
        """For a person."""
        return f"{self.what}: {_WORDS[self.state]}" + (f" ({self.detail})" if self.detail else "")
