"""Writes docs/reference/metrics.md from the table in the code: `make docs`.

What stands outside the two generated parts is prose and stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from dovetail_relay.telemetry import METRICS, LogEvent

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/metrics.md"
HEAD: Final = "| metric | kind | labels | what it says |\n|---|---|---|---|\n"
EVENTS: Final = "`event` is one of these:\n\n"
PER_LINE: Final = 4


def table() -> str:
    """One row per metric."""
    lines = []
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n")
    return HEAD + "".join(lines)


def events() -> str:
    """Every log event, some to a line."""
    names = [f"`{event.value}`" for event in LogEvent]
    lines = [", ".join(names[at : at + PER_LINE]) for at in range(0, len(names), PER_LINE)]
    return EVENTS + ",\n".join(lines) + ".\n"


def main() -> int:
    """Rewrite the page in place."""
    text = PAGE.read_text()
    text = re.sub(re.escape(HEAD) + r"(?:\|.*\n)*", lambda _: table(), text)
    text = re.sub(re.escape(EVENTS) + r"(?:`.*\n)*", lambda _: events(), text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
