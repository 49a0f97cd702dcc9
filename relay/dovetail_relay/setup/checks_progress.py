"""Whether a relay that starts now could go on from its checkpoint: judged by the very rule that a leader follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from dovetail_relay.config import Settings, conninfo, kafka_properties
from dovetail_relay.errors import CheckpointLost, Diverged, Gap, Halt
from dovetail_relay.machine import admit
from dovetail_relay.nouns import lsn_text
from dovetail_relay.publish.checkpoint import CheckpointReader
from dovetail_relay.publish.kafka import client_only
from dovetail_relay.setup.findings import Finding, failure, ok
from dovetail_relay.source import timeline
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.replication import connect

_READ_SECONDS = 10.0
_CHECK = "dovetail.progress"


def progress(settings: Settings) -> Iterator[Finding]:
    """GAP, DIVERGED and CHECKPOINT_LOST as the next leader would find them. What else may halt it has its own check.

    No lock is taken, nobody is fenced. PostgreSQL first: a leader that works meanwhile only brings the checkpoint on.
    """
    try:
        with (
            closing(
                LockSession(conninfo(settings, "relay"), slot=settings.relay.slot, relay=settings.relay.name)
            ) as own,
            connect(conninfo(settings, "relay")) as replication,
        ):
            row = own.relay_row()
            system_id, now = timeline.identify(replication)
            history = timeline.history(replication, now)
            facts = own.server_facts(system_id, now, settings.outbox.publication)
            client = {"log_level": 0, **client_only(dict(kafka_properties(settings)))}
            with closing(CheckpointReader(client, settings.checkpoint_topic, settings.relay.name.encode())) as reader:
                found = reader.read(_READ_SECONDS)
            # Where the log ends is asked last: it is never behind the checkpoint of a leader that works.
            ends = own.server_facts(system_id, now, settings.outbox.publication).wal_lsn
        admit(replace(facts, wal_lsn=ends), row, found, history)
    except (Gap, Diverged, CheckpointLost) as halt:
        yield failure(_CHECK, halt)
    except Halt:
        return
    else:
        where = "nothing published yet" if found is None else f"the checkpoint stands at {lsn_text(found.end_lsn)}"
        yield ok(_CHECK, f"{where}, the server is on timeline {now}")
