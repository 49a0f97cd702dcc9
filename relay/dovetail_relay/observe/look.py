"""One look at everything: each server is asked by itself, so that one that is down does not hide the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from dovetail_relay.config import Settings
from dovetail_relay.errors import RelayError, ServerUnreachable
from dovetail_relay.observe import database, process, topics, trace
from dovetail_relay.observe.database import OutboxRow, Taken
from dovetail_relay.observe.facts import DatabaseSide, KafkaSide, Seen
from dovetail_relay.observe.held import Held

_T = TypeVar("_T")


@dataclass(slots=True)
class Sides:
    """What went wrong on each side, in the order in which it was met. The command's exit code comes from these."""

    errors: dict[str, Exception] = field(default_factory=dict)

    def ask(self, side: str, question: Callable[[], _T]) -> _T | None:
        """The answer, or None with the error kept."""
        try:
            return question()
        except (RelayError, ServerUnreachable) as error:
            self.errors[side] = error
            return None

    def worst(self) -> Exception | None:
        """The one to end with: a server that is not there before one that refused."""
        unreachable = (error for error in self.errors.values() if isinstance(error, ServerUnreachable))
        return next(unreachable, next(iter(self.errors.values()), None))

    def said(self) -> dict[str, str]:
        """One line per side."""
        return {side: str(error) for side, error in self.errors.items()}


def at_relay(settings: Settings, sides: Sides) -> Seen:
    """The relay's port, then Kafka, then PostgreSQL.

    In this order the checkpoint is older than the WAL position it is compared with, so the lag is never too small.
    """
    relay = settings.relay
    answered = process.look(relay.http_host, relay.http_port, relay.name, relay.slot)
    kafka = sides.ask("kafka", lambda: _kafka(settings))
    checkpoint = None if kafka is None else kafka.checkpoint

    def ask_database() -> DatabaseSide:
        with database.looking(settings) as connection:
            return database.look(connection, settings, checkpoint)

    return Seen(
        relay=relay.name,
        slot=relay.slot,
        database=sides.ask("postgres", ask_database),
        kafka=kafka,
        process=answered,
        process_address=f"{relay.http_host}:{relay.http_port}" if relay.http_port else None,
        lease_seconds=relay.lease_seconds,
        errors=sides.said(),
    )


def at_event(settings: Settings, sides: Sides, event_id: UUID, *, timeout_seconds: float) -> trace.Way:
    """One event: its row, its record, its inbox rows. A part is None where its server did not answer.

    Raises LookupError where there is no outbox table.
    """

    def ask_database() -> tuple[OutboxRow | None, list[Taken], Held | None]:
        with database.looking(settings) as connection:
            row = database.find_event(connection, settings, event_id)
            return row, database.consumed(connection, event_id), database.held(connection, settings, event_id)

    def ask_kafka() -> tuple[trace.Search, KafkaSide]:
        with topics.topics_of(settings) as kafka:
            # The checkpoint first: what it says is settled is then surely in what is read afterwards.
            side = topics.look(kafka, settings)
            # What is not settled is looked for where it would be; of what is, nobody may say too soon that it is lost.
            thorough = row is None or (held is None and trace.settled(row, side.checkpoint) is True)
            found = trace.search(kafka, settings, event_id, row, thorough=thorough, timeout_seconds=timeout_seconds)
            return found, side

    row, taken, held = sides.ask("postgres", ask_database) or (None, None, None)
    search, side = sides.ask("kafka", ask_kafka) or (None, None)
    return trace.Way(event_id, row, search, taken, held, None if side is None else side.checkpoint)


def _kafka(settings: Settings) -> KafkaSide:
    with topics.topics_of(settings) as kafka:
        return topics.look(kafka, settings)
