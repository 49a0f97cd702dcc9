"""The SQL that both sides run, kept in files: numbered migrations and named queries.

A query file holds blocks of `-- name: foo`, a sentence of purpose as a comment, and one statement with `$1`
placeholders. Names are unique over all files. A migration is `NNNN_pre_name.sql` (before the new code is deployed)
or `NNNN_post_name.sql` (after), numbered from 1 without a gap, and never edited once released: its checksum is kept.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal, LiteralString, NamedTuple, cast

from dovetail_schemas.errors import MigrationsInvalid

_MIGRATION = re.compile(r"(\d{4})_(pre|post)_([a-z0-9_]+)\.sql", re.ASCII)
_BLOCK = re.compile(r"^-- name: *(\S*)[ \t]*$", re.MULTILINE)
_QUERY_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


class Migration(NamedTuple):
    """One numbered file. `checksum` is the SHA-256 of its text in hex."""

    version: int
    name: str
    phase: Literal["pre", "post"]
    sql: LiteralString
    checksum: str


class Queries(Mapping[str, LiteralString]):
    """All named queries, read on first use."""

    def __getitem__(self, name: str) -> LiteralString:
        return _queries()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_queries())

    def __len__(self) -> int:
        return len(_queries())


queries = Queries()


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration in the order of its number."""
    return arrange({entry.name: entry.read_text("utf-8") for entry in _folder("migrations")})


def arrange(texts: Mapping[str, str]) -> tuple[Migration, ...]:
    """Migrations from file name → text; refuses a name that does not parse and a number missing or used twice."""
    found: list[Migration] = []
    for filename, text in sorted(texts.items()):
        match = _MIGRATION.fullmatch(filename)
        if match is None:
            raise MigrationsInvalid(f"{filename!r} is not a migration; one is called 0001_pre_outbox.sql")
        phase = cast("Literal['pre', 'post']", match[2])
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found.append(Migration(int(match[1]), match[3], phase, _ours(text), checksum))
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise MigrationsInvalid(f"migrations must be numbered from 1 without a gap; found {versions}")
    return tuple(found)


def split(filename: str, text: str) -> dict[str, LiteralString]:
    """The named queries of one file. The comment under the name is required and stays out of the statement."""
    preamble, *blocks = _BLOCK.split(text)
    if any(line.strip() and not line.startswith("--") for line in preamble.splitlines()):
        raise MigrationsInvalid(f"{filename}: SQL before the first '-- name:' line")
    found: dict[str, LiteralString] = {}
    for name, block in zip(blocks[::2], blocks[1::2], strict=True):
        lines = block.strip().splitlines()
        statement = "\n".join(line for line in lines if not line.startswith("--")).strip().removesuffix(";")
        if not _QUERY_NAME.fullmatch(name) or name in found:
            raise MigrationsInvalid(f"{filename}: {name!r} is not a query name, or is used twice")
        if not lines or not lines[0].startswith("-- ") or not statement:
            raise MigrationsInvalid(f"{filename}: query {name} needs a sentence of purpose and a statement")
        found[name] = _ours(statement)
    return found


def _ours(text: str) -> Any:
    """SQL from files that we ship counts as literal, which a type checker cannot see."""
    return text


@cache
def _queries() -> dict[str, LiteralString]:
    found: dict[str, LiteralString] = {}
    for entry in _folder("queries"):
        for name, statement in split(entry.name, entry.read_text("utf-8")).items():
            if name in found:
                raise MigrationsInvalid(f"{entry.name}: query {name} exists in another file as well")
            found[name] = _ours(statement)
    return found


def _folder(name: str) -> list[Traversable]:
    folder = files("dovetail_schemas") / name
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
