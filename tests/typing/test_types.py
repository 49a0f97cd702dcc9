"""What a user's type checker says of the SDK."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def mypy_errors(path: Path) -> set[int]:
    """The lines that `mypy --strict` complains of, without this project's own settings."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    said = re.findall(r"^([^:\n]+):(\d+): error", done.stdout, re.MULTILINE)
    assert all(Path(file).name == path.name for file, _ in said), done.stdout
    return {int(line) for _, line in said}


def pyright_errors(path: Path) -> set[int]:
    command = [str(BIN / "pyright"), "--pythonpath", sys.executable, "--outputjson", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


def marked(path: Path) -> set[int]:
    return {number for number, line in enumerate(path.read_text().splitlines(), start=1) if "# error" in line}


def test_mypy_strict_accepts_a_service() -> None:
    assert mypy_errors(HERE / "service.py") == set()


def test_pyright_accepts_a_service() -> None:
    assert pyright_errors(HERE / "service.py") == set()


def test_mypy_strict_sees_mistakes() -> None:
    assert mypy_errors(HERE / "mistakes.py") == marked(HERE / "mistakes.py")


def test_pyright_sees_mistakes() -> None:
    assert pyright_errors(HERE / "mistakes.py") == marked(HERE / "mistakes.py")
