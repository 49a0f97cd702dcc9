"""What is stuck, as the operator sees it: what waits, why, and what a command would take up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from dovetail_relay.config import Settings
from dovetail_relay.parking import BEHIND
from dovetail_relay.setup.connect import Session, one, rows, session
from dovetail_relay.source.commands import Command
from dovetail_schemas.sql import queries

WAITING = ("parked", "halting", "condemned")
EVERY_STATE = (*WAITING, "discarded", "dead_lettered")


def listed(
    settings: Settings, chosen: Mapping[str, Any], *, behind: bool, settled: bool, most: int
) -> list[dict[str, Any]]:
    """Stuck messages, oldest first, each with how many wait behind its key."""
    relay = settings.relay.name
    states = list(EVERY_STATE if settled else WAITING)
    with session(settings, "operator") as connection:
        found = rows(
            connection, queries["stuck_list"],
            {"relay": relay, **chosen, "states": states, "behind": behind, "most": most},
        )  # fmt: skip
        waiting = {
            (row["topic"], row["key"]): row["waiting"]
            for row in rows(connection, queries["stuck_behind"], {"relay": relay})
        }
    for row in found:
        leads = row.pop("leads")
        waits_itself = leads and row["reason"] == BEHIND
        row["waiting"] = max(waiting.get((row["topic"], row["key"]), 0) - waits_itself, 0)
    return found


def first(settings: Settings) -> UUID | None:
    """The message that halts the relay, else the oldest that is stuck; None where nothing is."""
    with session(settings, "operator") as connection:
        found = one(connection, queries["stuck_first"], {"relay": settings.relay.name})
    return None if found is None else found["id"]


def shown(settings: Settings, event_id: UUID) -> dict[str, Any] | None:
    """All that is known of one stuck event, without its payload; None where it is not stuck and never was."""
    with session(settings, "operator") as connection:
        found = one(connection, queries["stuck_show"], {"relay": settings.relay.name, "id": event_id})
    return None if found is None else dict(found)


def naming(ids: Sequence[str]) -> Callable[[Session, Command], None]:
    """What writes the ids of a discard along with its command: those and no others are given up."""

    def named(connection: Session, command: Command) -> None:
        if ids:
            connection.execute(queries["stuck_named"], {"command": command.id, "ids": list(ids)})

    return named


def taken_up(settings: Settings, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a command would take up: each row with whether it is named itself or waits in the queue of one that is."""
    with session(settings, "operator") as connection:
        return rows(connection, queries["stuck_chosen"], {"relay": settings.relay.name, **chosen})
