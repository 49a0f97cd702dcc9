"""Messages that cannot go out: one that the relay stands before, and those that wait while the rest flows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dovetail_relay.errors import PoisonHeld
from dovetail_relay.setup.checks_server import Server
from dovetail_relay.setup.connect import one
from dovetail_relay.setup.findings import Finding, judge
from dovetail_schemas.sql import queries

# Of a queue of millions only so many are counted as take no time.
_MOST_COUNTED: Final = 10_000


def standing(server: Server) -> Iterator[Finding]:
    """Nothing is published while a relay stands before a message: its process is up, and all else is well."""
    found = one(server.connection, queries["observe_halting"], {"relay": server.settings.relay.name})
    event, reason = (found["halting"], found["reason"]) if found else ("", "")
    yield judge(
        "dovetail.halted",
        good=found is None,
        found=f"{PoisonHeld.name}: the relay stands before event {event} ({reason})" if found
        else "the relay stands before no message",
        wanted="published, or passed over by a person: nothing behind it goes out",
        remedy=f"dovetail stuck show {event}",
    )  # fmt: skip


def parked(server: Server) -> Iterator[Finding]:
    """Messages that wait, and keep those of their keys behind them."""
    asked = {"relay": server.settings.relay.name, "most": _MOST_COUNTED}
    counts = one(server.connection, queries["parked_counts"], asked) or {}
    messages, keys = counts["messages"] - counts["standing_before"], counts["keys"]
    at_least = "at least " if messages >= _MOST_COUNTED else ""
    yield judge(
        "dovetail.parked",
        good=not messages,
        found=f"messages that wait: {at_least}{messages}, held keys: {at_least}{keys}"
        if messages
        else "no message waits",
        wanted="none: a key is held until its stuck message is published or passed over",
        remedy="dovetail stuck list",
        otherwise="warn",
    )


CHECKS = (standing, parked)
