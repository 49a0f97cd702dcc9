"""Writers that make the order of events checkable: each key's numbers are taken under that key's row lock."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Self

import psycopg

import dovetail
from dovetail.outbox import Row
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
    committed_ids: list[str] = field(default_factory=list)
    rolled_back_ids: list[str] = field(default_factory=list)
    unknown: int = 0
    copied: int = 0
    prepared: int = 0
    huge: int = 0


@dataclass(frozen=True)
class Ways:
    """How often, of all transactions, one takes another way than INSERT and COMMIT."""

    copy: float = 0.0
    prepare: float = 0.0
    huge: float = 0.0
    huge_rows: int = 20_000


PLAIN = Ways()
EVERY_WAY = Ways(copy=0.05, prepare=0.05, huge=0.0005)


class Writers:
    """Threads that write until stopped: `with world.writers() as writers: …`."""

    def __init__(
        self,
        dsn: str,
        aggregate: str,
        *,
        count: int,
        keys: int,
        seed: int,
        pause: float = 0.004,
        ways: Ways = PLAIN,
    ) -> None:
        self._dsn = dsn
        self._keys = [f"key-{number}" for number in range(keys)]
        self._type = numbered(aggregate)
        self._stop = threading.Event()
        self._pause = pause
        self._ways = ways
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
        prepared: list[psycopg.Xid] = []
        while not self._stop.wait(chance.random() * 2 * self._pause) or prepared:
            try:
                if connection is None:
                    connection = psycopg.connect(self._dsn)
                    self._settle(connection, prepared)
                self._transaction(connection, chance, prepared)
            except psycopg.OperationalError:
                # The server went away: whether the commit happened is unknown, and the table will tell.
                with self._lock:
                    self.tally.unknown += 1
                connection = None
                self._stop.wait(0.1)
        if connection is not None:
            connection.close()

    def _transaction(self, connection: psycopg.Connection, chance: random.Random, prepared: list[psycopg.Xid]) -> None:
        way = chance.random()
        ways = self._ways
        is_prepared = ways.huge + ways.copy <= way < ways.huge + ways.copy + ways.prepare
        if is_prepared:
            prepared.append(connection.xid(1, f"{chance.getrandbits(64):x}", "w"))
            connection.tpc_begin(prepared[0])
        done, undone = self._events(connection, chance, way)
        if is_prepared:
            connection.tpc_prepare()
        if chance.random() < 0.10:
            undone, done = [*undone, *done], []
            connection.tpc_rollback() if is_prepared else connection.rollback()
        else:
            connection.tpc_commit() if is_prepared else connection.commit()
        prepared.clear()
        with self._lock:
            self.tally.transactions += 1
            self.tally.prepared += is_prepared
            self.tally.committed_ids += done
            self.tally.rolled_back_ids += undone

    def _events(self, connection: psycopg.Connection, chance: random.Random, way: float) -> tuple[list[str], list[str]]:
        """The ids that a commit makes visible, and those that it does not."""
        keys = sorted(chance.sample(self._keys, chance.randint(1, 3)))
        if way < self._ways.huge:
            self.tally.huge += 1
            return self._copy(connection, keys[:1], self._ways.huge_rows), []
        if way < self._ways.huge + self._ways.copy:
            self.tally.copied += 1
            return self._copy(connection, keys, chance.randint(1, 40)), []
        outbox = Outbox()
        done = [self._publish(connection, outbox, key) for key in keys]
        undone = []
        # A transaction that is prepared has no savepoints left open; one that was rolled back is gone.
        if chance.random() < 0.15:
            connection.execute("SAVEPOINT inner_part")
            undone.append(self._publish(connection, outbox, keys[-1]))
            connection.execute("ROLLBACK TO SAVEPOINT inner_part")
        return done, undone

    def _publish(self, connection: psycopg.Connection, outbox: Outbox, key: str) -> str:
        number = self._take(connection, key, 1)
        return str(outbox.publish(connection, self._type({"key": key, "number": number})))

    def _copy(self, connection: psycopg.Connection, keys: list[str], rows: int) -> list[str]:
        """So many rows of each key by COPY: they all stream with one position."""
        rendered = []
        for key in keys:
            last = self._take(connection, key, rows)
            rendered += [
                Outbox().row(self._type({"key": key, "number": number})) for number in range(last - rows + 1, last + 1)
            ]
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY dovetail.outbox ({', '.join(Row._fields)}) FROM STDIN") as copy,
        ):
            for row in rendered:
                copy.write_row(row)
        return [str(row.id) for row in rendered]

    @staticmethod
    def _take(connection: psycopg.Connection, key: str, count: int) -> int:
        """The last of the key's next numbers, under the key's lock."""
        row = connection.execute(
            "UPDATE numbers SET number = number + %s WHERE key = %s RETURNING number", (count, key)
        ).fetchone()
        assert row is not None
        return int(row[0])

    @staticmethod
    def _settle(connection: psycopg.Connection, prepared: list[psycopg.Xid]) -> None:
        """What was prepared when the server went away holds its locks until somebody decides."""
        for mine in prepared:
            if mine.gtrid in [found.gtrid for found in connection.tpc_recover()]:
                connection.tpc_commit(mine)
        prepared.clear()
