"""What to type next about one message that cannot go out, by its reason. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dovetail_relay.parking import BEHIND, CRASH, REFUSED, TOPIC, UNHANDLED
from dovetail_relay.settings.secret import Secret

TOO_LARGE: Final = "too_large"
# Every word that `stuck list --class` takes; a test holds them to those that the relay parks under.
REASONS: Final = (
    "schema", "unroutable", TOPIC, REFUSED, TOO_LARGE, "encoding", "headers", "envelope", "null", "time", CRASH,
    UNHANDLED, BEHIND, "discarded",
)  # fmt: skip
# librdkafka's own, where [kafka] says nothing.
_MESSAGE_MAX_BYTES: Final = 1_000_000
_RAISE: Final = "see docs/how-to/limits.md"
# What must be there before it can go out. What is not here is wrong with the row itself, and stays wrong.
_CURES: Final[Mapping[str, str]] = {
    "schema": "let its service register the schema (dovetail.register at its start)",
    "unroutable": "give its type a route, or its topic a place in kafka.allowed_topics; dovetail init; start the relay "
    "again",
    TOPIC: "make the topic that it names, or let the relay write to it (dovetail init makes the topics of routes)",
    REFUSED: "take away what Kafka refuses it for",
    CRASH: "report it",
    UNHANDLED: "report it",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One stuck message. `kept`: whether the outbox has its row, from which it can be replayed."""

    id: str
    state: str
    reason: str
    message: str
    payload_bytes: int | None = None
    kept: bool = True


def next_of(case: Case, properties: Mapping[str, str | Secret]) -> str:
    """The next command, or what to do before it. `properties` are those of `[kafka]`."""
    give_up = f"dovetail stuck discard --id {case.id} --reason …"
    if case.reason == TOO_LARGE:
        return _too_large(case, give_up)
    cure = _CURES.get(case.reason)
    if cure is None:
        return f"{give_up}; the row itself is at fault, and its service publishes it again as it should be"
    if "MSG_SIZE_TOO_LARGE" in case.message:
        cure = _whose_limit(case.payload_bytes, properties)
    if case.state == "halting":
        # It streams again every few seconds: nothing has to be released.
        return f"{cure}: the relay goes on by itself; or give it up: {give_up}"
    return f"{cure}, then dovetail stuck release --id {case.id} --reason …; or give it up: {give_up}"


def _too_large(case: Case, give_up: str) -> str:
    """Its payload was never taken in: where it is parked a release has nothing to publish."""
    higher = f"raise outbox.max_row_bytes and what is behind it ({_RAISE}), start the relay again"
    if case.state == "halting":
        return f"{higher}; or give it up: {give_up}"
    if not case.kept:
        return f"{give_up}; {higher}, and let its service publish it again"
    return f"{give_up}; {higher}, then dovetail replay --id {case.id} --reason …"


def _whose_limit(payload_bytes: int | None, properties: Mapping[str, str | Secret]) -> str:
    given = str(properties.get("message.max.bytes", _MESSAGE_MAX_BYTES))
    ours = int(given) if given.isdigit() else _MESSAGE_MAX_BYTES
    relays, topics = f'kafka."message.max.bytes" ({ours})', "the topic's max.message.bytes"
    if payload_bytes is None:
        which = f"{relays} or {topics}"
    elif payload_bytes >= ours:
        which = f"{relays}, for the payload has {payload_bytes} bytes, start the relay again"
    else:
        which = f"{topics}, for the payload has {payload_bytes} bytes, within the relay's own limit of {ours}"
    return f"raise {which} ({_RAISE})"
