"""The rooms of the hot path put together from the settings: router, encoder, mapper, intake."""

from __future__ import annotations

import time
from typing import Final

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
from dovetail_relay.telemetry import LogEvent, Telemetry

# A commit streams before others see it, and while it waits for a synchronous standby that can take long. Well within a
# lease: the loop stands still meanwhile.
_UNSEEN_SECONDS: Final = 4.0
_LOOK_AGAIN_SECONDS: Final = 0.05


def intake_for(settings: Settings, session: LockSession, registry: BuiltinRegistry, telemetry: Telemetry) -> Intake:
    """The intake of one reign. Schemas that it meets are looked up over the leader's session."""
    router = router_of(settings)
    encoder = Encoder()

    def look_up(fingerprint: bytes) -> bool:
        try:
            learned = registry.sync(session.connection)
        except psycopg.Error as error:
            raise session.refusal(error, "event_schema") from error
        for row in learned:
            log(LogEvent.SCHEMA_LEARNED, "learned a schema", schema_id=row.schema_id)
        schema = registry.known(fingerprint)
        if schema is None:
            return False
        encoder.learn(fingerprint, schema.schema_id, schema.definition)
        return True

    def learn(fingerprint: bytes) -> bool:
        deadline = time.monotonic() + _UNSEEN_SECONDS
        while True:
            # Asked before the look: what the transaction itself registered can be seen from then on.
            seen = session.has_ended(intake.xid)
            if look_up(fingerprint):
                return True
            if seen or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN_SECONDS)  # the server tells nobody when a commit can be seen

    intake = Intake(
        tables=lambda: session.outbox_tables(*settings.outbox.schema_and_table, settings.outbox.publication),
        columns=settings.outbox.columns,
        mapper=mapper_for(settings.outbox.headers, settings.outbox.source, router, encoder),
        learn=learn,
        parking=Parking(router.on_stuck),
        telemetry=telemetry,
        max_row_bytes=settings.outbox.max_row_bytes,
    )
    return intake
