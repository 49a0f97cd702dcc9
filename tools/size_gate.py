"""What the linters do not measure: sizes, names, naps in tests, and words that have no place here.

    python tools/size_gate.py        exit 0, or 1 with one line per finding

Limits are on the tail, not on the mean: a file of 400 lines or a function of 50 is one that wants to be two. An
exception is a line in a table below with its reason; an exception that nothing needs any more is a finding too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent

MAX_FILE_LINES: Final = 400
MAX_FUNCTION_LINES: Final = 50
MAX_POSITIONAL: Final = 5

# Names that say nothing about what is inside.
BANNED_NAMES: Final = frozenset({"utils", "util", "common", "helpers", "core", "base", "misc", "manager"})

# "path" or "path::function" -> reason.
LARGE_FILES: Final[dict[str, str]] = {}
LONG_FUNCTIONS: Final[dict[str, str]] = {}
MANY_POSITIONAL: Final[dict[str, str]] = {}

# Tests wait for facts. One place may nap between two looks.
MAY_SLEEP: Final[dict[str, str]] = {
    "tests/support/waiting.py": "the one poll that all other waiting goes through",
}

# Only one room of the relay speaks the wire protocol; import-linter sees psycopg as a whole.
MAY_IMPORT_PQ: Final[dict[str, str]] = {
    "relay/dovetail_relay/source/replication.py": "the wire protocol",
    "relay/dovetail_relay/setup/grants.py": "asks libpq for its default user; no connection, no protocol",
}

# Where packages come from is the business of whoever installs: a name in here would pin it. Written in halves, or
# this file would be the first finding.
_HOSTS: Final = (
    ("py" + "pi", "org"),
    ("files.pythonho" + "sted", "org"),
    ("registry.npm" + "js", "org"),
    ("registry.yarn" + "pkg", "com"),
    ("repo1.ma" + "ven", "org"),
    ("repo.ma" + "ven.apache", "org"),
    ("crates" + "", "io"),
    ("ruby" + "gems", "org"),
    ("proxy.go" + "lang", "org"),
)
BANNED_WORDS: Final = re.compile("|".join(re.escape(f"{name}.{domain}") for name, domain in _HOSTS), re.IGNORECASE)

SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "dist", "build", "node_modules", "_build"})
SHOWN_DOT_FOLDERS: Final = frozenset({".ci", ".github"})
BINARY: Final = frozenset({".gz", ".png", ".ico", ".woff2", ".avro", ".bin", ".whl"})


class Finding(NamedTuple):
    """One line for a person: where and what."""

    where: str
    what: str


def files(root: Path) -> Iterator[Path]:
    """Every file that belongs to the project, none that a tool made."""
    for path in sorted(root.iterdir()):
        if path.is_dir():
            hidden = path.name.startswith(".") and path.name not in SHOWN_DOT_FOLDERS
            if not hidden and path.name not in SKIPPED_FOLDERS and not path.name.endswith(".egg-info"):
                yield from files(path)
        elif path.suffix not in BINARY:
            yield path


def check_name(place: str) -> Iterator[Finding]:
    """Folders and modules are called after what they hold."""
    for part in Path(place).parts:
        if part.partition(".")[0].lower() in BANNED_NAMES:
            yield Finding(place, f"{part!r} says nothing about what is inside")


def check_words(place: str, text: str) -> Iterator[Finding]:
    """No package registry is named anywhere."""
    for number, line in enumerate(text.splitlines(), start=1):
        if BANNED_WORDS.search(line):
            yield Finding(f"{place}:{number}", "names a package registry")


def check_sizes(place: str, text: str, tree: ast.Module, used: set[str]) -> Iterator[Finding]:
    """Lines per file, lines per function, positional parameters per function."""
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        used.add(place)
        if place not in LARGE_FILES:
            yield Finding(place, f"{lines} lines; at most {MAX_FILE_LINES}")
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _check_function(place, function, used)


def _check_function(place: str, function: ast.FunctionDef | ast.AsyncFunctionDef, used: set[str]) -> Iterator[Finding]:
    name = f"{place}::{function.name}"
    where = f"{place}:{function.lineno}"
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if lines > MAX_FUNCTION_LINES:
        used.add(name)
        if name not in LONG_FUNCTIONS:
            yield Finding(where, f"{function.name} has {lines} lines; at most {MAX_FUNCTION_LINES}")
    positional = [*function.args.posonlyargs, *function.args.args]
    count = len(positional) - (bool(positional) and positional[0].arg in {"self", "cls"})
    if count > MAX_POSITIONAL:
        used.add(name)
        # A test's parameters are its fixtures: pytest passes them by name.
        if name not in MANY_POSITIONAL and not place.startswith("tests/"):
            yield Finding(where, f"{function.name} has {count} positional parameters; at most {MAX_POSITIONAL}")


def check_sleeps(place: str, tree: ast.Module, used: set[str]) -> Iterator[Finding]:
    """A test that naps is slow when it passes and wrong when the machine is slow."""
    if not place.startswith("tests/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "sleep":
            used.add(place)
            if place not in MAY_SLEEP:
                yield Finding(f"{place}:{node.lineno}", "sleeps; wait for a fact with tests/support/waiting.py")


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def check_pq(place: str, tree: ast.Module, used: set[str]) -> Iterator[Finding]:
    """`psycopg.pq` is touched in one room of the relay."""
    if not place.startswith("relay/"):
        return
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        if any(f"{module}.".startswith("psycopg.pq.") for module in modules):
            used.add(place)
            if place not in MAY_IMPORT_PQ:
                yield Finding(place, "imports psycopg.pq; source/replication.py does that for all")


def check_exceptions(used: set[str]) -> Iterator[Finding]:
    """An exception that has become unnecessary goes."""
    for table in (LARGE_FILES, LONG_FUNCTIONS, MANY_POSITIONAL, MAY_SLEEP, MAY_IMPORT_PQ):
        for place in table.keys() - used:
            yield Finding(place, "is an exception that nothing needs any more: take it out of tools/size_gate.py")


def check(root: Path) -> Iterator[Finding]:
    """Everything, over one tree."""
    used: set[str] = set()
    for path in files(root):
        place = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from check_name(place)
        yield from check_words(place, text)
        if path.suffix == ".py":
            tree = ast.parse(text, place)
            yield from check_sizes(place, text, tree, used)
            yield from check_sleeps(place, tree, used)
            yield from check_pq(place, tree, used)
    yield from check_exceptions(used)


def main() -> int:
    """The command; the number of findings decides the exit code."""
    findings = list(check(ROOT))
    for where, what in findings:
        print(f"{where}: {what}", file=sys.stderr)
    print(f"size gate: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
