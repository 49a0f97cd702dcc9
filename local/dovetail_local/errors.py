"""What can go wrong here, each with the exit code of the command line.

    LocalError            1  failed
    ├── WrongUsage        2  the caller asked for something that does not exist
    ├── Unreachable       3  a server does not answer
    └── NothingToDo       5  the thing is already so

A message is one line: what was wrong, what is allowed, what to type next.
"""

from typing import ClassVar


class LocalError(Exception):
    """A failure of the local stack that a person can act on."""

    exit_code: ClassVar[int] = 1


class WrongUsage(LocalError):
    """The caller asked for something that does not exist."""

    exit_code = 2


class Unreachable(LocalError):
    """A server was started, or promised, and does not answer."""

    exit_code = 3


class NothingToDo(LocalError):
    """The stack is already in the wanted state."""

    exit_code = 5
