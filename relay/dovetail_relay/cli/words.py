"""How the commands speak: words on stderr, data on stdout, both plain text.

No markup and no colour: the same bytes on a terminal, in a file and in a pod's log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Output = Literal["table", "json", "jsonl"]


def say(text: str) -> None:
    """One line for the person in front of it."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def write(text: str) -> None:
    """Text that is the result itself: a script, a version."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(rows: Sequence[Mapping[str, Any]], output: Output, columns: Sequence[str]) -> None:
    """Rows as a table of `columns`, as one JSON array, or as one JSON object per line."""
    if output == "json":
        write(json.dumps([dict(row) for row in rows], indent=2, ensure_ascii=False, default=str) + "\n")
    elif output == "jsonl":
        write("".join(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n" for row in rows))
    else:
        write(table(rows, columns))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Columns side by side, as wide as their widest value; the last one is not padded."""
    cells = [[name.upper() for name in columns], *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return "".join(
        "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())
