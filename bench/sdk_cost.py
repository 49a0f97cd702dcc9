"""`Outbox.publish` beside a raw INSERT of the same row on the same connection, turn by turn."""

from __future__ import annotations

import statistics
import time

import psycopg

from bench.rig import MEASURED, Rig
from dovetail.psycopg import Outbox

_RAW = (
    "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
    " VALUES (%b, %b, %b, %b, %b, %b)"
)
ROUNDS = 15
ROWS = 400


def publish_to_insert(rig: Rig) -> float:
    """The median over rounds of time(publish) / time(raw insert), each round `ROWS` rows in one transaction."""
    outbox = Outbox()
    ratios = []
    with psycopg.connect(rig.endpoints.app_dsn) as connection:
        import uuid

        payload = MEASURED.codec.encode({"key": "k", "sent_ns": 1, "pad": bytes(120)})
        for round_number in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(ROWS):
                connection.execute(
                    _RAW, (uuid.uuid4(), MEASURED.aggregate, "k", MEASURED.name, payload, MEASURED.fingerprint)
                )
            raw = time.perf_counter() - started
            connection.rollback()
            started = time.perf_counter()
            for _ in range(ROWS):
                outbox.publish(connection, MEASURED({"key": "k", "sent_ns": 1, "pad": bytes(120)}))
            ours = time.perf_counter() - started
            connection.rollback()
            if round_number >= 2:
                ratios.append(ours / raw)
    return statistics.median(ratios)
