"""The page of bad inputs is true: no row is missing, every test exists, and the words are those of the code."""

from __future__ import annotations

import ast
import builtins
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psycopg

import dovetail
from dovetail_relay.errors import RelayError
from dovetail_relay.operate import problems as operators_problems  # noqa: F401 - as below
from dovetail_relay.setup import problems  # noqa: F401 - so that its errors are among the subclasses
from dovetail_relay.source import replication  # noqa: F401

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/bad-inputs.md"
SOURCES = ("schemas/dovetail_schemas", "sdk/dovetail", "relay/dovetail_relay")
# The rows of the SDK's arguments, of SQL, of the configuration and of the command line. Others may follow.
WANTED = {*range(1, 18), *range(22, 62)}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
# Words of Dovetail stand between double marks, all other code between single ones.
WORDS = re.compile(r"``(.+?)``(?!`)")
# Of a text in the code so much is fixed, in characters and in parts of what it says, or it says too little to be
# recognised by.
LEAST_CHARACTERS, LEAST_PART = 8, 0.2


class Row(NamedTuple):
    """One line of a table."""

    number: int
    input: str
    says: str
    error: str
    tests: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]
    return [Row(int(number), *others) for number, *others in cells]


def test_no_row_is_missing() -> None:
    assert WANTED - {row.number for row in rows()} == set()


@cache
def cases_of(path: str) -> frozenset[str]:
    """What pytest collects of a file: its functions of that name."""
    nodes = ast.parse((ROOT / path).read_text()).body if Path(path).name.startswith("test_") else ()
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(name for name in names if name.startswith("test_"))


def test_every_row_is_proven_by_tests_that_exist() -> None:
    named = {row: TEST.findall(row.tests) for row in rows()}
    assert [row for row, tests in named.items() if not tests] == []
    found = {test for tests in named.values() for test in tests}
    assert [f"{path}::{test}" for path, test in sorted(found) if test not in cases_of(path)] == []


def all_below(kind: type) -> set[type]:
    return {kind}.union(*map(all_below, kind.__subclasses__()))


def test_every_error_that_is_named_exists() -> None:
    known = {kind.name for kind in all_below(RelayError) if hasattr(kind, "name")} | set(dovetail.errors.__all__)
    places = (psycopg.errors, psycopg, builtins)
    told = {name for row in rows() for name in re.findall(r"`(\w+)`", row.error)[:1]}
    assert {name for name in told - known if not any(hasattr(place, name) for place in places)} == set()
    assert {row.error for row in rows() if not row.error.startswith("`")} == {"", "exit 2", "exit 3"}


@cache
def literals() -> list[tuple[int, str, str]]:
    """Of every text in the code: how many characters are fixed, its longest such part, and a pattern for the whole."""
    found = []
    for path in (path for source in SOURCES for path in (ROOT / source).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            whole = node.values if isinstance(node, ast.JoinedStr) else [node]
            parts = [str(part.value) if isinstance(part, ast.Constant) else None for part in whole]
            fixed = sum(len(part.strip()) for part in parts if part)
            if fixed >= LEAST_CHARACTERS:
                pattern = "".join(".+?" if part is None else re.escape(part) for part in parts)
                found.append((fixed, max((part for part in parts if part), key=len), pattern))
    return found


def is_said(words: str) -> bool:
    return any(
        fixed >= LEAST_PART * len(words) and longest in words and re.search(pattern, words)
        for fixed, longest, pattern in literals()
    )


def test_the_words_are_those_of_the_code() -> None:
    told = [words.strip() for row in rows() for words in WORDS.findall(row.says)]
    assert len(told) > 40
    assert [words for words in told if not is_said(words)] == []


def test_words_that_nobody_says_are_noticed() -> None:
    assert is_said("relay.slot: 'My-Slot' is not a slot name: 1 to 63 of a-z, 0-9 and _")
    assert not is_said("relay.slot: 'My-Slot' is no slot name: 1 to 63 of a-z, 0-9 and _")
