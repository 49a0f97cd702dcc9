"""The play: start everything, kill, wait until all has arrived, read everything back, and balance the books."""

import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from dovetail_local.demo.books import Books, Evidence, Order, Record, balance
from dovetail_local.demo.chaos import Schedule, Victim, schedule
from dovetail_local.demo.children import Children, dovetail_command, service_command
from dovetail_local.demo.screen import Figures, Screen
from dovetail_local.demo.servers import Place, open_place
from dovetail_local.demo.topic import TopicReader
from dovetail_local.errors import LocalError

View = Callable[[Sequence[Record]], Sequence[Record]]

_INIT_SECONDS = 30.0
_READ_SECONDS = 20.0
# From the last COMMIT to the last effect; it takes about a second, a Kafka transaction that nobody ends takes fifteen.
_DRAIN_SECONDS = 25.0
# How long kills may still be waited for where a victim is slow to come back.
_EXTRA_SECONDS = 15.0
# After its start a victim is given this long: what is counted before it may still be its predecessor's work.
_START_SECONDS = 1.0
_TICK_SECONDS = 0.05
_COUNT_EVERY_SECONDS = 0.5

_SHOP = Path(__file__).with_name("shop.sql")


def run(seconds: float, screen: Screen, *, keep: bool = False, view: View = lambda records: records) -> Books:
    """Run the demo for about `seconds` and give its books. `view` is what the reader shows of the topic, for tests."""
    with _signals_interrupt(), screen, open_place(screen.say, keep=keep) as place, _logs_outlive_failure(place):
        with Children(place.environment(), place.folder) as children, _owner(place) as database:
            children.run("init", _dovetail(place, "init"), _INIT_SECONDS)
            database.execute(_SHOP.read_bytes())
            play = Play(place, children, database, screen)
            rolled_back = play.perform(seconds)
            books = balance(_evidence(place, database, rolled_back, view, play.figures.relay_kills))
        for complaint in books.complaints:
            screen.say(complaint)
        if not books.balanced:
            screen.say(f"the logs are in {_save_logs(place)}")
        if keep:
            _tell_how_to_reach(place, screen)
        return books


class Play:
    """The services, the relay and the kills. One thread; `perform` is the whole of it."""

    def __init__(self, place: Place, children: Children, database: psycopg.Connection[Any], screen: Screen) -> None:
        """Take the stage; nothing runs yet."""
        self.figures = Figures()
        self._place = place
        self._children = children
        self._database = database
        self._screen = screen
        self._rolled_back: list[str] = []
        self._seen: set[str] = set()
        self._commands = {
            "orders": service_command("order_service"),
            "relay": _dovetail(place, "relay", "run"),
            "shipping": service_command("shipping_service", place.consumer, place.topic),
        }
        self._began = time.monotonic()
        self._count_at = 0.0
        # When the victim last started, and what had been done by then: it is killed only at work.
        self._started: dict[Victim, tuple[float, int]] = {"relay": (0.0, 0), "shipping": (0.0, 0)}

    def perform(self, seconds: float) -> list[str]:
        """Play until everything that was committed has arrived; give the ids of the events that were rolled back."""
        self._start_all()
        self._began = time.monotonic()
        with contextlib.closing(_reader(self._place, self._database)) as reader:
            self.figures.act = "ordering, publishing, killing"
            kills = schedule(seconds)
            while self._elapsed() < seconds or (kills.kills and self._elapsed() < seconds + _EXTRA_SECONDS):
                self._tick(reader)
                self._kill_who_is_due(kills)
            self.figures.act = "waiting for the rest"
            self._stop_orders()
            deadline = time.monotonic() + _DRAIN_SECONDS
            while not self._drained() and time.monotonic() < deadline:
                self._tick(reader)
        self._children.stop("relay")
        self._children.stop("shipping")
        self.figures.act = "reading everything back"
        return self._rolled_back

    def _start_all(self) -> None:
        for name, command in self._commands.items():
            self._children.start(name, command)

    def _tick(self, reader: TopicReader) -> None:
        """Take in what has happened and show it."""
        self._children.check()
        if "orders" in self._commands:
            self._hear_orders(self._children.lines("orders"))
        self._seen.update(record.event_id for record in reader.poll(_TICK_SECONDS))
        # The order service tells a moment later what it has committed. The books at the end are read from the servers.
        self.figures.published = min(len(self._seen), self.figures.committed)
        if time.monotonic() >= self._count_at:
            self._count_at = time.monotonic() + _COUNT_EVERY_SECONDS
            self.figures.effects = _one(self._database, "SELECT sum(gone)::bigint FROM shop.stock")
        self.figures.elapsed = self._elapsed()
        self._screen.show(self.figures)

    def _hear_orders(self, lines: list[bytes]) -> None:
        for line in lines:
            said = json.loads(line)
            self.figures.committed += said["committed"]
            self._rolled_back += said["rolled_back"]
        self.figures.rolled_back = len(self._rolled_back)

    def _kill_who_is_due(self, kills: Schedule) -> None:
        victim = kills.due(self._elapsed())
        if victim is None or not self._is_at_work(victim):
            return
        kills.done()
        self._children.kill(victim)
        self._started[victim] = (self._elapsed(), self._done_by(victim))
        if victim == "relay":
            self.figures.relay_kills += 1
        else:
            self.figures.consumer_kills += 1
        self._screen.say(f"{self._elapsed():5.1f} s  kill -9 {victim}; starting it again")
        self._children.start(victim, self._commands[victim])

    def _is_at_work(self, victim: Victim) -> bool:
        started, done = self._started[victim]
        return self._elapsed() > started + _START_SECONDS and self._done_by(victim) > done

    def _done_by(self, victim: Victim) -> int:
        return self.figures.published if victim == "relay" else self.figures.effects

    def _stop_orders(self) -> None:
        self._hear_orders(self._children.stop("orders"))
        del self._commands["orders"]

    def _drained(self) -> bool:
        return self.figures.published >= self.figures.committed <= self.figures.effects

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let each signal that asks to end do what Ctrl-C does, once: the way out is short and must not be cut."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logs_outlive_failure(place: Place) -> Iterator[None]:
    try:
        yield
    except LocalError as error:
        raise type(error)(f"{error}; the logs are in {_save_logs(place)}") from error


def _save_logs(place: Place) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dovetail-demo-logs-"))
    for log in place.folder.glob("*.log"):
        shutil.copy(log, folder)
    return folder


def _tell_how_to_reach(place: Place, screen: Screen) -> None:
    if place.stack is None:
        screen.say(f"kept: the database {place.relay}, the topic {place.topic}")
        return
    folder = place.stack.layout.directory
    screen.say(f'the servers go on running: eval "$(dovetail local env --dir {folder})"')
    screen.say(f"stop and remove them: dovetail local down --delete --dir {folder}")


def _evidence(
    place: Place, database: psycopg.Connection[Any], rolled_back: list[str], view: View, relay_kills: int
) -> Evidence:
    """Read everything back."""
    orders = database.execute("SELECT event_id::text, customer, number, product FROM shop.orders").fetchall()
    stock = database.execute("SELECT product, gone FROM shop.stock").fetchall()
    with contextlib.closing(_reader(place, database)) as reader:
        records = reader.read_all(time.monotonic() + _READ_SECONDS)
    return Evidence(
        committed={event_id: Order(*order) for event_id, *order in orders},
        rolled_back=rolled_back,
        records=view(records),
        gone=dict(stock),
        relay_kills=relay_kills,
    )


def _reader(place: Place, database: psycopg.Connection[Any]) -> TopicReader:
    def definition(schema_id: int) -> str:
        return str(_one(database, "SELECT definition FROM dovetail.event_schema WHERE schema_id = %s", schema_id))

    return TopicReader(place.kafka(), place.topic, definition)


def _dovetail(place: Place, *arguments: str) -> list[str]:
    return [*dovetail_command(), "--config", str(place.config), *arguments]


def _owner(place: Place) -> psycopg.Connection[Any]:
    return psycopg.connect(place.endpoints.owner_dsn, autocommit=True)


def _one(database: psycopg.Connection[Any], query: Any, *parameters: object) -> Any:
    row = database.execute(query, parameters).fetchone()
    return None if row is None else row[0]
