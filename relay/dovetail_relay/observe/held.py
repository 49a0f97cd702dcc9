"""What the parking knows of one event: it waits, halts the relay, was given up, or is a dead letter. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dovetail_relay.errors import PoisonHeld, StuckMessage
from dovetail_relay.nouns import dead_letter_topic
from dovetail_relay.observe.advice import Case, next_of
from dovetail_relay.observe.facts import Finding
from dovetail_relay.parking import BEHIND
from dovetail_relay.settings.secret import Secret

_WAITING: Final = "waiting"


@dataclass(frozen=True, slots=True)
class Held:
    """One row of `dovetail.parked`. `head` is the first of its queue; `actor` and `why` are who gave it up, and why."""

    state: str
    reason: str
    message: str
    topic: str
    parked_at: datetime
    payload_bytes: int | None = None
    head: str | None = None
    head_reason: str | None = None
    command: int | None = None
    actor: str | None = None
    why: str | None = None

    @property
    def station(self) -> str:
        """Where the event is: its state, but `waiting` for what is well and waits behind another one."""
        return _WAITING if self.state == "parked" and self.reason == BEHIND else self.state


def as_json(held: Held) -> dict[str, Any]:
    """What `--output json` shows."""
    return {**asdict(held), "station": held.station, "parked_at": _moment(held.parked_at)}


def line(held: Held) -> str:
    """What happened to it, for a person."""
    since = _moment(held.parked_at)
    said = {
        _WAITING: f"since {since}, {_behind_what(held)}",
        "parked": f"parked since {since} ({held.reason}): {held.message}",
        "halting": f"the relay stands before it since {since} ({held.reason}): {held.message}",
        "condemned": f"{_given_up(held)}; the relay passes over it when it comes by",
        "discarded": _given_up(held),
        "dead_lettered": f"to {dead_letter_topic(held.topic)} at {since} ({held.reason}): {held.message}",
    }
    return said.get(held.station, held.state)


def settled_line(event_id: str, held: Held) -> str | None:
    """What to type about an event that was given up on purpose; None for the others, which are findings."""
    again = f"to publish it all the same: dovetail replay --id {event_id} --reason …"
    if held.state == "discarded":
        return again
    if held.state == "dead_lettered":
        return f"dovetail tail {dead_letter_topic(held.topic)} --from-start; {again}"
    return None


def finding_of(event_id: str, held: Held, properties: Mapping[str, str | Secret], *, kept: bool) -> Finding | None:
    """What is wrong with it; None for what somebody, or its route, has decided."""
    if held.station == _WAITING:
        following = (
            f"dovetail stuck show {held.head}" if held.head else f"dovetail stuck release --id {event_id} --reason …"
        )
        return Finding(StuckMessage.name, f"it waits {_behind_what(held)}", following)
    case = Case(event_id, held.state, held.reason, held.message, held.payload_bytes, kept)
    if held.state == "halting":
        return Finding(PoisonHeld.name, f"the relay stands before it ({held.reason})", next_of(case, properties))
    if held.state == "parked":
        return Finding(StuckMessage.name, f"it is parked ({held.reason})", next_of(case, properties))
    return None


def _behind_what(held: Held) -> str:
    # A release that ended early has let go what was first in its queue, and not the rest.
    return f"behind event {held.head} ({held.head_reason})" if held.head else "behind nothing any more: it can go out"


def _given_up(held: Held) -> str:
    by = f" by {held.actor}, command {held.command}" if held.actor else ""
    return f"discarded{by}" + (f": {held.why}" if held.why else "")


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
