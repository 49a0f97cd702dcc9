"""What needs root is a tier of its own: `make test` leaves it out, and without root it fails in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import root

ROOT = Path(__file__).parents[2]


def collected(*words: str) -> str:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def test_make_test_leaves_out_what_needs_root() -> None:
    # The other tiers take long to import.
    tiers = [path for path in (ROOT / "tests").iterdir() if path.name not in {"packaging", "full", "conftest.py"}]
    found = collected(*(f"--ignore={path}" for path in tiers))
    assert "tests/packaging/test_root_tier.py" in found
    assert "tests/full" not in found


def test_without_root_the_tier_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(root.NotPossible, match=r"^tests/full .* only root may: sudo make test-full$"):
        root.demand()


def test_a_tool_that_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(root.NotPossible, match=r"'mount'.*install the package mount$"):
        root.demand()
