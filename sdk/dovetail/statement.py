"""What the pure part of the SDK asks a driver to do."""

from typing import Any, LiteralString, NamedTuple


class Statement(NamedTuple):
    """One SQL statement with `$1` placeholders, and their values in order."""

    sql: LiteralString
    params: tuple[Any, ...]
