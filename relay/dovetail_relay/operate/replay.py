"""Events that are to be published once more: what a choice holds, what speaks against it, and the command.

The choice is made by the server. Counted and listed in one snapshot, so that what the operator said yes to is what is
written down, however much is being published meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]
from psycopg import sql

from dovetail_relay.config import Settings
from dovetail_relay.operate.commands import submit
from dovetail_relay.operate.problems import CommandFailed
from dovetail_relay.setup.connect import Session, rows, session
from dovetail_relay.setup.topics import METADATA_TIMEOUT_SECONDS, Cluster, partition_counts
from dovetail_relay.source.commands import Command
from dovetail_schemas.sql import queries

# For how many days an inbox knows what it has taken; what is older it refuses.
WINDOW_DAYS: Final = 7
_SEQ_DIGITS: Final = 19

Choice = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What a choice holds. `types` counts by aggregate type; `snapshot` finds the same events again."""

    types: Mapping[str, int]
    first: str
    last: str
    too_old: int
    snapshot: str

    @property
    def events(self) -> int:
        """All of them."""
        return sum(self.types.values())


def count(settings: Settings, choice: Choice) -> Found | None:
    """What the outbox holds of a choice now; None where it is nothing. `choice` has the fields of `replay_chosen`."""
    with session(settings, "operator") as connection:
        found = rows(connection, _query("replay_count"), {**choice, "snapshot": None, "days": WINDOW_DAYS})
    if not found:
        return None
    return Found(
        types={row["aggregatetype"]: row["events"] for row in found},
        first=min(row["first"] for row in found)[_SEQ_DIGITS:],
        last=max(row["last"] for row in found)[_SEQ_DIGITS:],
        too_old=sum(row["too_old"] for row in found),
        snapshot=found[0]["snapshot"],
    )


def ids(settings: Settings, choice: Choice, found: Found) -> Iterator[str]:
    """The ids of what was counted, one by one: there may be millions."""
    with (
        session(settings, "operator") as connection,
        connection.transaction(),
        connection.cursor("dovetail_replay") as cursor,
    ):
        cursor.execute(_query("replay_ids"), {**choice, "snapshot": found.snapshot})
        for row in cursor:
            yield row["id"]


def not_kept(settings: Settings, wanted: Collection[UUID]) -> list[UUID]:
    """Which of these events are not in the outbox."""
    with session(settings, "operator") as connection:
        there = {row["id"] for row in rows(connection, queries["replay_found"], {"ids": list(wanted)})}
    return [event_id for event_id in wanted if event_id not in there]


def unfit(settings: Settings, topics: Collection[str]) -> dict[str, str]:
    """The topics that events must not be published to again, with the reason; topics that are not there, too.

    A compacted topic keeps one record per key: an old one that comes again would hide the newest.
    """
    cluster = Cluster(settings)
    there = partition_counts(cluster.metadata())
    resources = {name: ConfigResource(ResourceType.TOPIC, name) for name in topics if name in there}
    found = {name: "is not there" for name in topics if name not in there}
    if not resources:
        return found
    futures = cluster.client.describe_configs(list(resources.values()), request_timeout=METADATA_TIMEOUT_SECONDS)
    for name, resource in resources.items():
        try:
            policy = futures[resource].result()["cleanup.policy"].value or ""
        except KafkaException as error:
            raise cluster.named(error) from error
        if "compact" in policy:
            found[name] = f"has cleanup.policy={policy}: an old event would hide the newest of its key"
    return found


def ask(
    settings: Settings, choice: Choice, found: Found, arguments: Mapping[str, Any], *, reason: str | None
) -> Command:
    """Write the command down, with all the events that it names, in one transaction.

    Raises CommandFailed where they are not all there any more, CommandUnderWay where another command is.
    """

    def listed(connection: Session, command: Command) -> None:
        values = {**choice, "snapshot": found.snapshot, "command": command.id}
        written = connection.execute(_query("replay_list"), values).rowcount
        if written != found.events:
            raise CommandFailed(
                f"{written} of {found.events} events are in the outbox still", remedy="the same command again"
            )

    return submit(
        settings, "replay", {**arguments, "events": found.events}, reason=reason, also=listed,
        before={"events": found.events, "first": found.first, "last": found.last, "types": dict(found.types)},
    )  # fmt: skip


def _query(name: str) -> sql.Composed:
    return sql.SQL(queries[name]).format(chosen=sql.SQL(queries["replay_chosen"]))
