"""`Outbox.publish` beside a raw INSERT of the same row on the same connection, turn by turn."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg

from bench.rig import MEASURED, Rig
from dovetail.psycopg import Outbox

_RAW = (
    "INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
    " VALUES (%b, %b, %b, %b, %b, %b)"
)
ROUNDS = 60
ROWS = 100


def publish_to_insert(rig: Rig) -> float:
    """The median over rounds of time(publish) / time(raw insert), each round `ROWS` rows of either in a transaction.

    Short rounds, and either comes first in turn: what else the machine does meanwhile hits both.
    """
    outbox = Outbox()
    payload = MEASURED.codec.encode({"key": "k", "sent_ns": 1, "pad": bytes(120)})
    with psycopg.connect(rig.endpoints.app_dsn) as connection:

        def raw() -> None:
            event = (uuid.uuid4(), MEASURED.aggregate, "k", MEASURED.name, payload, MEASURED.fingerprint)
            connection.execute(_RAW, event)

        def ours() -> None:
            outbox.publish(connection, MEASURED({"key": "k", "sent_ns": 1, "pad": bytes(120)}))

        ratios = []
        for number in range(ROUNDS):
            turns = (raw, ours) if number % 2 else (ours, raw)
            took = {each: _seconds(connection, each) for each in turns}
            ratios.append(took[ours] / took[raw])
    # The first rounds prepare the statements.
    return statistics.median(ratios[4:])


def _seconds(connection: psycopg.Connection[Any], insert: Callable[[], None]) -> float:
    started = time.perf_counter()
    for _ in range(ROWS):
        insert()
    took = time.perf_counter() - started
    connection.rollback()
    return took
