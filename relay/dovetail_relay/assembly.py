"""The rooms of the hot path put together from the settings: router, encoder, mapper, intake."""

from __future__ import annotations

import psycopg

from dovetail_relay.config import Settings
from dovetail_relay.encode.framing import Encoder
from dovetail_relay.intake import Intake
from dovetail_relay.logs import log
from dovetail_relay.parking import Parking
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.route.dialects import mapper_for
from dovetail_relay.routing import router_of
from dovetail_relay.source.lead import LockSession
from dovetail_relay.source.replication import server_error
from dovetail_relay.telemetry import LogEvent, Telemetry


def intake_for(settings: Settings, session: LockSession, registry: BuiltinRegistry, telemetry: Telemetry) -> Intake:
    """The intake of one reign. Schemas that it meets are looked up over the leader's session."""
    router = router_of(settings)
    encoder = Encoder()

    def learn(fingerprint: bytes) -> bool:
        try:
            learned = registry.sync(session.connection)
        except psycopg.Error as error:
            raise server_error(error, "event_schema") from error
        for row in learned:
            log(LogEvent.SCHEMA_LEARNED, "learned a schema", schema_id=row.schema_id)
        schema = registry.known(fingerprint)
        if schema is None:
            return False
        encoder.learn(fingerprint, schema.schema_id, schema.definition)
        return True

    return Intake(
        tables=session.outbox_tables(*settings.outbox.schema_and_table, settings.outbox.publication),
        columns=settings.outbox.columns,
        mapper=mapper_for(settings.outbox.headers, settings.outbox.source, router, encoder),
        learn=learn,
        parking=Parking(router.on_stuck),
        telemetry=telemetry,
        max_row_bytes=settings.outbox.max_row_bytes,
    )
