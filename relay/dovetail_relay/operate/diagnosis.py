"""Which halt a relay is in, as far as an operator's role can see it; the relay itself may be down."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dovetail_relay.config import Settings
from dovetail_relay.errors import CheckpointLost, Diverged, Halt, Misconfigured, PartitionsChanged
from dovetail_relay.machine import admit
from dovetail_relay.nouns import Checkpoint, RelayRow, ServerFacts
from dovetail_relay.observe import process
from dovetail_relay.observe.facts import KafkaSide
from dovetail_relay.observe.topics import look, topics_of
from dovetail_relay.setup.connect import Session, one, session
from dovetail_relay.setup.shape import unfit
from dovetail_relay.source.lead import relay_row_of, server_facts_of
from dovetail_relay.source.publication import Publication, read_publication
from dovetail_schemas.sql import queries


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was seen. `grown` are topics with another number of partitions: (recorded, now)."""

    halt: Halt | None
    facts: ServerFacts
    row: RelayRow
    kafka: KafkaSide
    publication: Publication | None
    # Why the publication cannot be gone on from, whatever was recorded.
    unfit: str | None
    # What init or `relay accept` has recorded.
    recorded: dict[str, int]
    grown: dict[str, tuple[int, int]]
    # The timeline is not the checkpoint's: whether that lies beyond the switch, only the relay's role can find out.
    switched: bool

    @property
    def found(self) -> Checkpoint | None:
        return self.kafka.checkpoint


def diagnose(settings: Settings) -> Diagnosis:
    """Ask Kafka, PostgreSQL and the relay's port. Raises Misconfigured where init has not run."""
    with topics_of(settings) as topics:
        counts = topics.partitions()
        kafka = look(topics, settings)
    with session(settings, "operator") as connection:
        publication = _publication(connection, settings)
        problem = None if publication is None else unfit(connection, settings)
        row, facts, recorded = _asked(connection, settings, None if publication is None else publication.fingerprint)
    grown = {
        topic: (count, counts[topic])
        for topic, count in sorted(recorded.items())
        if topic in counts and counts[topic] != count
    }
    found = kafka.checkpoint
    switched = found is not None and found.system_id == facts.system_id and found.timeline != facts.timeline
    halt = _halt(facts, row, kafka, switched=switched)
    if halt is None and grown:
        halt = PartitionsChanged(", ".join(f"topic {topic} has {now} partitions" for topic, (_, now) in grown.items()))
    if halt is None and switched and _says_diverged(settings):
        halt = Diverged("the relay says that the checkpoint lies beyond the switch to this timeline")
    return Diagnosis(halt, facts, row, kafka, publication, problem, recorded, grown, switched)


def _asked(
    connection: Session, settings: Settings, fingerprint: str | None
) -> tuple[RelayRow, ServerFacts, dict[str, int]]:
    row = one(connection, queries["relay_row"], {"relay": settings.relay.name})
    if row is None:
        raise Misconfigured(f"this database has no relay {settings.relay.name!r}", remedy="dovetail init")
    server = one(connection, queries["recovery_server"]) or {}
    asked = one(connection, queries["relay_server_facts"], {"slot": row["slot"]}) or {}
    facts = server_facts_of(asked, server["system_id"], server["timeline"], fingerprint)
    return relay_row_of(row), facts, dict(row["partition_counts"])


def _halt(facts: ServerFacts, row: RelayRow, kafka: KafkaSide, *, switched: bool) -> Halt | None:
    """As admission would say it, but for what lies between two timelines."""
    if kafka.problem is not None and row.recovery_horizon is None:
        return CheckpointLost(kafka.problem)
    found = kafka.checkpoint
    if found is not None and switched:
        found = replace(found, timeline=facts.timeline)
    try:
        admit(facts, row, found, ())
    except Halt as halt:
        return halt
    return None


def _says_diverged(settings: Settings) -> bool:
    relay = settings.relay
    answered = process.look(relay.http_host, relay.http_port, relay.name, relay.slot)
    return answered is not None and answered.reason == Diverged.name


def _publication(connection: Session, settings: Settings) -> Publication | None:
    try:
        return read_publication(connection, settings.outbox.publication)
    except LookupError:
        return None
