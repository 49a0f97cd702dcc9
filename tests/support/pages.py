"""The fenced blocks of a page of the docs, and the mark above each that says what is done with it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"(?ms)(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?:sh|python|toml|sql)\n(?P<text>.*?)^```$")


class Block(NamedTuple):
    """One fenced block. `mark` is None where nobody said what to do with it."""

    page: Path
    mark: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for found in _FENCE.finditer(page.read_text()):
        yield Block(page, found["mark"], found["text"])


def shell(page: str) -> str:
    """All of a page's shell blocks as one script."""
    return "\n".join(block.text for block in blocks(ROOT / page) if (block.mark or "").startswith("run: shell"))
