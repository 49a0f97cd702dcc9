"""One line of `dovetail doctor`: what is, what should be, what to type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dovetail_relay.errors import RelayError, Retry, ServerUnreachable

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is a stable dotted name; `remedy` is empty where there is nothing to do."""

    check: str
    status: Status
    found: str
    wanted: str = ""
    remedy: str = ""
    unreachable: bool = False

    def line(self) -> str:
        """For a person: what is and, where that is not as it should be, what should be and what to type."""
        parts = [self.found]
        if self.status != "ok":
            parts += [f"should be {self.wanted}"] if self.wanted else []
            parts += [f"next: {self.remedy}"] if self.remedy else []
        return "; ".join(parts)

    def row(self) -> dict[str, str]:
        """For printing; the keys are part of the contract of `--output json`."""
        return {
            "status": self.status,
            "check": self.check,
            "is": self.found,
            "should": self.wanted,
            "next": self.remedy,
        }


def ok(check: str, found: object) -> Finding:
    """Everything is as it should be."""
    return Finding(check, "ok", str(found))


def judge(check: str, *, good: bool, found: object, wanted: str, remedy: str, otherwise: Status = "fail") -> Finding:
    """ok when `good`; else `otherwise`, with what should be and what to type."""
    if good:
        return ok(check, found)
    return Finding(check, otherwise, str(found), wanted, remedy)


def failure(check: str, error: Exception) -> Finding:
    """A check that could not be made, or that ended in a named error."""
    if isinstance(error, (ServerUnreachable, Retry)):
        return Finding(
            check, "fail", str(error), "reachable", "start the server, or correct its address", unreachable=True
        )
    if isinstance(error, RelayError):
        return Finding(check, "fail", f"{error.name}: {error}", "", error.remedy)
    text = " ".join(str(error).split())
    return Finding(check, "fail", f"the check itself failed: {type(error).__name__}: {text}", "", "report it")


def guarded(check: str, run: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run one group of checks; an error becomes a finding, so that the groups behind it still run."""
    try:
        yield from run()
    except Exception as error:  # noqa: BLE001 - a doctor that falls ill over one patient helps nobody
        yield failure(check, error)
