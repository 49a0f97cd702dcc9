"""Values that do not print, and the files they come from.

A `Secret` shows `***` wherever a value might be shown by accident: repr, str, format, a log record, an error text, a
pickle, a JSON dump. Only `reveal()` gives the text, and only the code that opens a connection calls it.
"""

from __future__ import annotations

import hmac
import stat
from pathlib import Path
from typing import NoReturn

HIDDEN = "***"

# A secret is one line: a password, a token, a DSN. A megabyte here is a wrong path.
MAX_SECRET_BYTES = 65536


class Secret:
    """One secret value. Equality takes the same time wherever two values differ."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The value itself: for the call that opens a connection and for nothing else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never serialised")


class BadSecretFile(ValueError):
    """A secret file that cannot be used; the message names the path and what is wrong, never what is in it."""


def read_secret_file(path: Path) -> Secret:
    """The file's text without the trailing newline. Read at each connect, so that a rotated secret is picked up.

    Refused: a missing file, a directory, an empty file, more than one line, a file that everybody may read.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise BadSecretFile(f"{path} is a directory; a file with the secret as its only line is wanted")
        if info.st_mode & 0o027:
            mode = stat.S_IMODE(info.st_mode)
            raise BadSecretFile(f"{path} has mode {mode:04o}; others must not read it: chmod 0400 (or 0440) {path}")
        if info.st_size > MAX_SECRET_BYTES:
            raise BadSecretFile(f"{path} has {info.st_size} bytes; a secret has at most {MAX_SECRET_BYTES}")
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        raise BadSecretFile(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise BadSecretFile(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise BadSecretFile(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise BadSecretFile(f"{path} is empty")
    if "\n" in text and not text.startswith("-----BEGIN"):
        raise BadSecretFile(f"{path} has more than one line")
    return Secret(text)
