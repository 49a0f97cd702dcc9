"""The global options in a command line, before anybody parses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_VALUED = ("--config", "--output")


def command_words(argv: Sequence[str]) -> Iterator[str]:
    """The words that are neither an option nor the value of a global one: first of all the command's name."""
    words = iter(argv)
    for word in words:
        if word == "--":
            return
        if word in _VALUED:
            next(words, None)
        elif not word.startswith("-"):
            yield word


def hoisted(argv: Sequence[str], *, also_valued: bool = True) -> list[str]:
    """The global options moved in front of the command, wherever they were typed; behind `--` nothing moves."""
    valued = _VALUED if also_valued else ()
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--debug" or ("=" in word and word.partition("=")[0] in valued):
            front.append(word)
        elif word in valued:
            front += [word, *(value for value in (next(words, None),) if value is not None)]
        else:
            rest.append(word)
    return front + rest
