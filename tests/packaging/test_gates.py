"""The gates of `make lint` bite: each is shown a copy of the tree with one thing wrong in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SIDES = ("schemas", "sdk", "relay", "local")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for side in SIDES:
        shutil.copytree(ROOT / side, tmp_path / side, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(tree: Path) -> str:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / side) for side in SIDES), "COLUMNS": "200"}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("relay/dovetail_relay/decode/late.py", "import time"),
        ("relay/dovetail_relay/ledger.py", "import dovetail_relay.machine"),
        ("relay/dovetail_relay/nouns.py", "import dovetail_relay.errors"),
        ("relay/dovetail_relay/publish/port.py", "import dovetail_relay.pipeline"),
        ("relay/dovetail_relay/route/router.py", "import dovetail.errors"),
        ("sdk/dovetail/ids.py", "import dovetail_relay.nouns"),
        ("relay/dovetail_relay/unlisted.py", "import os"),
    ],
)
def test_an_import_in_the_wrong_direction_breaks_a_contract(tree: Path, place: str, line: str) -> None:
    file = tree / place
    old = file.read_text() if file.exists() else ""
    file.write_text(old + f"\n{line}\n")
    said = broken_contracts(tree)
    assert "BROKEN" in said or "unlisted" in said, said


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("size_gate", ROOT / "tools/size_gate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["size_gate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        ("relay/long.py", "x = 1\n" * 401, "401 lines"),
        ("relay/deep.py", "def f():\n" + "    x = 1\n" * 50, "f has 51 lines"),
        ("relay/wide.py", "def f(a, b, c, d, e, g): ...\n", "6 positional"),
        ("relay/" + "utils.py", "", "says nothing"),
        ("tests/unit/test_x.py", "import time\ntime.sleep(1)\n", "wait for a fact"),
        ("relay/dovetail_relay/reign.py", "from psycopg import pq\n", "psycopg.pq"),
        ("docs/x.md", "see https://files." + "pythonhosted" + ".org/x", "package registry"),
    ],
)
def test_the_size_gate_finds(tmp_path: Path, gate: ModuleType, place: str, text: str, said: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert any(said in finding.what for finding in gate.check(tmp_path))


def test_an_exception_that_nothing_needs_is_a_finding(tmp_path: Path, gate: ModuleType) -> None:
    assert {finding.where for finding in gate.check(tmp_path)} >= set(gate.MAY_SLEEP)
