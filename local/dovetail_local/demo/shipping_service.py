"""The shipping service: takes each order from Kafka and lowers the stock, which must happen once and not twice.

Run as `python -m dovetail_local.demo.shipping_service CONSUMER TOPIC`, until SIGTERM.
"""

import logging
import signal
import sys
from typing import Any

import psycopg

from dovetail import environment
from dovetail.inbox import Delivery
from dovetail.kafka import Consumer
from dovetail_local.demo.events import OrderPlaced


def ship(conn: psycopg.Connection[Any], delivery: Delivery) -> None:
    """Not idempotent, on purpose. The inbox's receipt and this change commit together."""
    conn.execute("UPDATE shop.stock SET gone = gone + 1 WHERE product = %s", [delivery.event.product])


def main() -> None:
    """Consume until told to stop."""
    logging.basicConfig(level=logging.INFO)
    name, topic = sys.argv[1:]
    consumer = Consumer(
        # The instance id lets a consumer that was killed come back to its partitions at once.
        environment.kafka() | {"group.instance.id": "shipping-1", "session.timeout.ms": 10_000},
        consumer=name,
        topics=[topic],
        handler=ship,
        types=[OrderPlaced],
    )
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    consumer.run()


if __name__ == "__main__":
    main()
