"""Everything that README and docs show is run: an example that is not true does not stay for long.

Above each fenced block of `sh`, `python` or `toml` stands an HTML comment that says what is done with it:

    <!-- run: shell -->                      run in one bash session with the page's other shell blocks, in order
    <!-- run: shell; prints: some text -->   and this text must come out
    <!-- file: shop.py -->                   written to the working directory first
    <!-- run: make -->                       `make` targets that must exist; the demo is run by tests/e2e/test_demo.py
    <!-- run: config -->                     a configuration that must load
    <!-- not run: reason -->
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dovetail_relay.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?P<kind>sh|python|toml)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


class Block(NamedTuple):
    """One fenced block. `mark` is None where nobody said what to do with it."""

    page: Path
    mark: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for found in FENCE.finditer(page.read_text()):
        yield Block(page, found["mark"], found["text"])


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_block_says_what_is_done_with_it(page: Path) -> None:
    for block in blocks(page):
        known = block.mark and re.match(r"(run: (shell|make|config|sql)\b|file: \S+$|not run: \S+)", block.mark)
        assert known, f"{name(page)}: {block.mark!r} above\n{block.text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_configuration_loads(page: Path) -> None:
    for block in blocks(page):
        if block.mark == "run: config":
            needs = [key for key in ("postgres.dsn", "kafka.bootstrap_servers") if "bootstrap_servers" in block.text]
            load(None, {}, flat(tomllib.loads(block.text)), needs=needs)


def flat(sections: dict[str, object], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in sections.items():
        if isinstance(value, dict) and above != "kafka.":
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def test_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>&1 || true; dovetail local down --delete 2>&1 || true' EXIT"]
    expected = []
    for block in blocks(ROOT / "README.md"):
        mark = block.mark or ""
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(block.text)
        elif mark.startswith("run: shell"):
            script.append(block.text)
            if "prints: " in mark:
                expected.append(mark.partition("prints: ")[2])
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("DOVETAIL_", "PYTHON"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    done = subprocess.run(
        ["bash", "-mc", "\n".join(script)],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    for text in expected:
        assert text in done.stdout.splitlines(), done.stdout + done.stderr[-6000:]


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    told = {
        target
        for page in PAGES
        for block in blocks(page)
        if block.mark == "run: make"
        for target in re.findall(r"^make ([a-z-]+)", block.text, re.M)
    }
    assert told
    assert told <= targets
