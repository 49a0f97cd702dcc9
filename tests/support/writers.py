"""Writers that make the order of events checkable: each key's numbers are taken under that key's row lock."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Self

import psycopg

import dovetail
from dovetail.psycopg import Outbox
from dovetail_local.endpoints import Endpoints

NUMBERED_SCHEMA = {
    "type": "record",
    "name": "Numbered",
    "fields": [{"name": "key", "type": "string"}, {"name": "number", "type": "long"}],
}


def numbered(aggregate: str) -> dovetail.EventType:
    """The event type of these writers."""
    return dovetail.EventType.from_avsc(NUMBERED_SCHEMA, aggregate=aggregate, key="key", type="Numbered")


def prepare(endpoints: Endpoints, aggregate: str) -> None:
    """The writers' own table, and their schema registered."""
    with psycopg.connect(endpoints.owner_dsn) as connection:
        connection.execute("CREATE TABLE numbers (key text PRIMARY KEY, number bigint NOT NULL DEFAULT 0)")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON numbers TO app")
    with psycopg.connect(endpoints.app_dsn) as connection:
        dovetail.register(connection, numbered(aggregate))


@dataclass
class Tally:
    """What the writers did. `unknown` are transactions whose commit raised: neither done nor failed."""

    transactions: int = 0
    rolled_back_ids: list[str] = field(default_factory=list)
    unknown: int = 0


class Writers:
    """Threads that write until stopped: `with world.writers() as writers: …`."""

    def __init__(self, dsn: str, aggregate: str, *, count: int, keys: int, seed: int, pause: float = 0.004) -> None:
        self._dsn = dsn
        self._keys = [f"key-{number}" for number in range(keys)]
        self._type = numbered(aggregate)
        self._stop = threading.Event()
        self._pause = pause
        self._lock = threading.Lock()
        self.tally = Tally()
        self._threads = [
            threading.Thread(target=self._write, args=(random.Random(seed * 1000 + index),), daemon=True)
            for index in range(count)
        ]

    def __enter__(self) -> Self:
        with psycopg.connect(self._dsn) as connection:
            for key in self._keys:
                connection.execute("INSERT INTO numbers (key) VALUES (%s) ON CONFLICT DO NOTHING", (key,))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Tally:
        """Let every writer finish its transaction."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        return self.tally

    def _write(self, chance: random.Random) -> None:
        connection: psycopg.Connection | None = None
        while not self._stop.wait(chance.random() * 2 * self._pause):
            try:
                if connection is None:
                    connection = psycopg.connect(self._dsn)
                self._transaction(connection, chance)
            except psycopg.OperationalError:
                # The server went away: whether the commit happened is unknown, and the table will tell.
                with self._lock:
                    self.tally.unknown += 1
                connection = None
                self._stop.wait(0.1)
        if connection is not None:
            connection.close()

    def _transaction(self, connection: psycopg.Connection, chance: random.Random) -> None:
        outbox = Outbox()
        undone: list[str] = []
        keys = sorted(chance.sample(self._keys, chance.randint(1, 3)))
        for key in keys:
            self._publish(connection, outbox, key)
        if chance.random() < 0.15:
            connection.execute("SAVEPOINT inner_part")
            undone.append(self._publish(connection, outbox, keys[-1]))
            connection.execute("ROLLBACK TO SAVEPOINT inner_part")
        if chance.random() < 0.10:
            undone += [self._publish(connection, outbox, keys[-1])]
            connection.rollback()
        else:
            connection.commit()
        with self._lock:
            self.tally.transactions += 1
            self.tally.rolled_back_ids += undone

    def _publish(self, connection: psycopg.Connection, outbox: Outbox, key: str) -> str:
        row = connection.execute(
            "UPDATE numbers SET number = number + 1 WHERE key = %s RETURNING number", (key,)
        ).fetchone()
        assert row is not None
        return str(outbox.publish(connection, self._type({"key": key, "number": row[0]})))
