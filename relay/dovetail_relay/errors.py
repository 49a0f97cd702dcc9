"""Every way in which the relay stops or stumbles, in one tree.

    RelayError
    ├── Retry                    the same call again, after a pause
    │   ├── PostgresUnavailable      connection refused, lost, shutting down
    │   └── KafkaUnavailable         no broker answers
    ├── Restart                  drop what is in memory, begin again at "lead first"
    │   ├── StreamEnded              the walsender ended the stream
    │   ├── LeadLost                 the lock session is gone: somebody else may lead
    │   ├── Fenced                   a successor took the transactional id
    │   ├── CheckpointMoved          somebody else wrote the checkpoint
    │   └── RecycleLimit             too many producers in a row came to nothing
    ├── Park                     one record is at fault
    │   └── StuckMessage             unroutable, not encodable, too large, refused by the broker
    └── Halt                     only an operator can go on; section 5.1 of the design
        ├── Gap · SlotLost · Diverged · CheckpointLost · StreamRefused
        ├── PublicationChanged · PartitionsChanged · OutboxAltered · PoisonHeld
        └── Misconfigured            a setting, a grant or an ACL; doctor names it

Each class knows its disposition and a remedy: the next command to type. A message says what was wrong and what is
allowed; it carries positions, names and sizes, never a payload, a key or a password.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from dovetail_relay.nouns import LSN_ZERO, Lsn, Parked


class Disposition(StrEnum):
    """What the service does after an error."""

    RETRY = "retry"
    RESTART = "restart"
    PARK = "park"
    HALT = "halt"


class RelayError(Exception):
    """Base of the tree. `str()` is one line; `remedy` is the next thing to type."""

    disposition: ClassVar[Disposition]
    name: ClassVar[str]
    default_remedy: ClassVar[str] = "dovetail doctor"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.remedy = remedy if remedy is not None else self.default_remedy

    def line(self) -> str:
        """What a person reads: name, message, remedy, in one line."""
        return f"{self.name}: {self}; next: {self.remedy}"


class Retry(RelayError):
    disposition = Disposition.RETRY
    name = "RETRY"


class PostgresUnavailable(Retry):
    name = "POSTGRES_UNAVAILABLE"


class KafkaUnavailable(Retry):
    name = "KAFKA_UNAVAILABLE"


class Restart(RelayError):
    disposition = Disposition.RESTART
    name = "RESTART"
    default_remedy = "nothing: the relay begins again by itself"


class StreamEnded(Restart):
    """`sqlstate` is why, where the server said so, and `at` how far we had come."""

    name = "STREAM_ENDED"

    def __init__(self, message: str, *, sqlstate: str | None = None, at: Lsn = LSN_ZERO) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.at = at


class LeadLost(Restart):
    name = "LEAD_LOST"


class Fenced(Restart):
    name = "FENCED"


class CheckpointMoved(Restart):
    name = "CHECKPOINT_MOVED"


class RecycleLimit(Restart):
    name = "RECYCLE_LIMIT"


class Park(RelayError):
    disposition = Disposition.PARK
    name = "PARK"


class StuckMessage(Park):
    """One record that cannot be published. `event_id` and `topic` name it; the payload stays where it is."""

    name = "STUCK_MESSAGE"

    def __init__(self, message: str, *, event_id: str, topic: str | None = None, reason: str = "refused") -> None:
        super().__init__(message)
        self.event_id = event_id
        self.topic = topic
        self.reason = reason


class Halt(RelayError):
    disposition = Disposition.HALT
    name = "HALT"


class Gap(Halt):
    """The slot was confirmed beyond the checkpoint: events in between were never published."""

    name = "GAP"
    default_remedy = "dovetail recover"


class SlotLost(Halt):
    name = "SLOT_LOST"
    default_remedy = "dovetail recover"


class Diverged(Halt):
    name = "DIVERGED"
    default_remedy = "dovetail recover --new-epoch"


class CheckpointLost(Halt):
    name = "CHECKPOINT_LOST"
    default_remedy = "dovetail recover"


class StreamRefused(Halt):
    """The server ends every stream at the same place: it cannot send what comes next."""

    name = "STREAM_REFUSED"
    default_remedy = "dovetail slot drop, then dovetail recover"


class PublicationChanged(Halt):
    name = "PUBLICATION_CHANGED"
    default_remedy = "dovetail doctor"


class PartitionsChanged(Halt):
    name = "PARTITIONS_CHANGED"
    default_remedy = "dovetail relay accept"


class OutboxAltered(Halt):
    name = "OUTBOX_ALTERED"
    default_remedy = "dovetail init --check"


class PoisonHeld(Halt):
    """A stuck message whose route says `halt`. `parked` is what is known of it, for `dovetail stuck show`."""

    name = "POISON_HELD"
    default_remedy = "dovetail stuck show"

    def __init__(self, message: str, *, remedy: str | None = None, parked: Parked | None = None) -> None:
        super().__init__(message, remedy=remedy or _show(parked))
        self.parked = parked


def _show(parked: Parked | None) -> str | None:
    """The command with the event's id: without it an older message of another key might be shown, and discarded."""
    if parked is None:
        return None
    event_id = bytes(parked.row[0])
    return f"dovetail stuck show {UUID(bytes=event_id)}" if len(event_id) == 16 and any(event_id) else None


class Misconfigured(Halt):
    name = "MISCONFIGURED"
    default_remedy = "dovetail doctor"


class ConfigInvalid(Misconfigured):
    """All problems of a configuration at once, each with its dotted path."""

    name = "CONFIG_INVALID"
    default_remedy = "correct it, then dovetail doctor"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class ServerUnreachable(Exception):
    """For the CLI: exit code 3. `str()` is one line."""
