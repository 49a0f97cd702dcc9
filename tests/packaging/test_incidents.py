"""docs/explanation/incidents.md: each incident names tests that exist, and planted mistakes that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/incidents.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def lines() -> list[str]:
    return [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| what ")]


def functions(path: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}


def planted() -> set[str]:
    names = set()
    for path in (ROOT / "tests/simulation").glob("plants*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return {str(name) for name in names}


def test_every_incident_names_tests_that_exist() -> None:
    assert len(lines()) >= 26
    assert [line for line in lines() if not TEST.search(line)] == []
    named = {found for line in lines() for found in TEST.findall(line)}
    assert [f"{path}::{name}" for path, name in sorted(named) if name not in functions(path)] == []


def test_every_mistake_that_is_named_is_planted_in_the_simulation() -> None:
    named = {name for line in lines() for name in re.findall(r'"([^"]+)"', line)}
    assert len(named) >= 8
    assert named - planted() == set()
