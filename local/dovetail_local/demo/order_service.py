"""The order service: each order is two business rows and one event, in one transaction.

Run as `python -m dovetail_local.demo.order_service`, until SIGTERM. It says on standard output, as a line of JSON now
and then, how many events it committed and which ones it rolled back.
"""

import json
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg

import dovetail
from dovetail.psycopg import Outbox
from dovetail_local.demo.events import OrderPlaced

WRITERS = 4
# Together about 400 transactions a second: two cores also carry both servers, the relay, shipping and the reader.
PAUSE_SECONDS = 0.01
ROLLED_BACK = 0.10
ROLLED_BACK_TO_SAVEPOINT = 0.10
REPORT_SECONDS = 0.25

outbox = Outbox()
chance = random.SystemRandom()


def place_order(conn: psycopg.Connection[Any], customer: str) -> UUID:
    """Take the customer's next number, which locks the customer until COMMIT; write the order; publish the event."""
    product = f"product-{chance.randint(1, 20)}"
    count = "UPDATE shop.customer SET orders = orders + 1 WHERE name = %s RETURNING orders"
    (number,) = conn.execute(count, [customer]).fetchone() or (0,)
    event_id = outbox.publish(conn, OrderPlaced(customer, number, product))
    conn.execute("INSERT INTO shop.orders VALUES (%s, %s, %s, %s)", [customer, number, product, event_id])
    return event_id


def serve_customer(conn: psycopg.Connection[Any], tally: "Tally") -> None:
    """One transaction; some are rolled back, and some lose a second order by rolling back to a savepoint."""
    customer = f"customer-{chance.randint(1, 40)}"
    placed: list[UUID] = []
    undone: list[UUID] = []
    with conn.transaction():
        placed.append(place_order(conn, customer))
        if chance.random() < ROLLED_BACK_TO_SAVEPOINT:
            with conn.transaction() as savepoint:
                undone.append(place_order(conn, customer))
                raise psycopg.Rollback(savepoint)
        if chance.random() < ROLLED_BACK:
            undone += placed
            placed.clear()
            raise psycopg.Rollback
    tally.add(len(placed), undone)


class Tally:
    """What the writers did since the last report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._committed = 0
        self._rolled_back: list[str] = []

    def add(self, committed: int, rolled_back: list[UUID]) -> None:
        """Note the outcome of one transaction."""
        with self._lock:
            self._committed += committed
            self._rolled_back += map(str, rolled_back)

    def report(self) -> None:
        """Say it in one line, and begin anew."""
        with self._lock:
            line = json.dumps({"committed": self._committed, "rolled_back": self._rolled_back})
            self._committed, self._rolled_back = 0, []
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def write(dsn: str, tally: Tally, stopping: threading.Event) -> None:
    """Serve customers until told to stop."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not stopping.wait(chance.uniform(0, 2 * PAUSE_SECONDS)):
            serve_customer(conn, tally)


def main() -> None:
    """Run the writers."""
    dsn = os.environ["DOVETAIL_POSTGRES__APP_DSN"]
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with psycopg.connect(dsn) as conn:
        dovetail.register(conn, OrderPlaced)
    tally = Tally()
    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, dsn, tally, stopping) for _ in range(WRITERS)]
        while not stopping.wait(REPORT_SECONDS) and not any(writer.done() for writer in writers):
            tally.report()
        stopping.set()
    tally.report()
    for writer in writers:
        writer.result()


if __name__ == "__main__":
    main()
