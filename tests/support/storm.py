"""Faults by lot. A schedule comes from a seed alone, so that a seed that failed can be had again; hands make and heal.

Each turn is a subset of the packages, sometimes none, so that there is progress to be broken. A fault lasts its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from typing import Literal, NamedTuple, cast

import psycopg

from dovetail_local.stack import Stack
from support.kafka_proxy import Api, Fate, KafkaProxy, Rule
from support.link import Link, Way
from support.relay import RelayProcess
from support.waiting import after, wait_until
from support.world import World

Place = Literal["broker", "postgres", "kafka link", "postgres link", "request", "relay"]

_WEATHER = ("both", "to_server", "to_client", "reset", "delay", "slow")
_REQUESTS = {
    "EndTxn never comes, or late": (Api.END_TXN, Fate.CUT),
    "EndTxn's answer is lost": (Api.END_TXN, Fate.CUT_ANSWER),
    "EndTxn hangs": (Api.END_TXN, Fate.HANG),
    "EndTxn's answer hangs": (Api.END_TXN, Fate.HANG_ANSWER),
    "Produce comes late": (Api.PRODUCE, Fate.CUT),
    "Produce's answer is lost": (Api.PRODUCE, Fate.CUT_ANSWER),
    "AddPartitionsToTxn comes late": (Api.ADD_PARTITIONS_TO_TXN, Fate.CUT),
    "InitProducerId comes late": (Api.INIT_PRODUCER_ID, Fate.CUT),
}
# In the order of healing: servers before what needs them.
PACKAGES: dict[Place, tuple[str, ...]] = {
    "broker": ("kill", "freeze"),
    "postgres": ("immediate", "fast", "kill", "walsender", "lock session"),
    "kafka link": _WEATHER,
    "postgres link": _WEATHER,
    "request": tuple(_REQUESTS),
    "relay": ("kill", "stop", "freeze"),
}
# A server takes seconds to come back: less often, or nothing else would ever happen.
LIKELY: dict[Place, float] = {
    "broker": 0.08,
    "postgres": 0.15,
    "kafka link": 0.25,
    "postgres link": 0.25,
    "request": 0.35,
    "relay": 0.25,
}
CALM = 0.1
TURN_SECONDS = (0.5, 1.5)


class Fault(NamedTuple):
    """`lot` chooses among several of a kind: which broker, which relay."""

    place: Place
    what: str
    lot: int


class Turn(NamedTuple):
    """What is wrong at the same time, and for how long."""

    seconds: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s: " + ("; ".join(f"{fault.place}: {fault.what}" for fault in self.faults) or "-")


def schedule(seed: int, seconds: float) -> list[Turn]:
    """What will happen; the same for the same arguments."""
    chance = random.Random(seed)
    turns: list[Turn] = []
    while sum(turn.seconds for turn in turns) < seconds:
        calm = chance.random() < CALM
        drawn = tuple(
            Fault(place, chance.choice(whats), chance.randrange(1 << 16))
            for place, whats in PACKAGES.items()
            if chance.random() < LIKELY[place]
        )
        turns.append(Turn(chance.uniform(*TURN_SECONDS), () if calm else drawn))
    return turns


class Storm:
    """The hands. Afterwards everything is healed, and as many relays run as before."""

    def __init__(self, world: World, kafka: KafkaProxy, postgres: Link, *, relays: int, brokers: int) -> None:
        self._world = world
        self._stack: Stack = world.stack
        self._links: dict[Place, Link] = {"kafka link": kafka, "postgres link": postgres}
        self._kafka = kafka
        self._brokers = brokers
        self._late: list[Rule] = []
        self.running: list[RelayProcess] = [world.relay() for _ in range(relays)]
        self.counts: Counter[str] = Counter()

    def rages(self, turns: list[Turn]) -> None:
        for turn in turns:
            for fault in turn.faults:
                self.counts[f"{fault.place}: {fault.what}"] += 1
                self._begin(fault)
            wait_until(after(turn.seconds), turn.seconds + 5, "the turn is over")
            for fault in turn.faults:
                self._end(fault)
            for relay in self.running:
                assert relay.process.poll() is None, f"a relay ended by itself:\n{relay.log()[-3000:]}"

    def _begin(self, fault: Fault) -> None:
        node = 1 + fault.lot % self._brokers
        if fault.place == "broker":
            (self._stack.kill_broker if fault.what == "kill" else self._stack.pause_broker)(node)
        elif fault.place == "postgres":
            self._break_postgres(fault.what)
        elif fault.place == "request":
            self._late.append(self._kafka.on(*_REQUESTS[fault.what]))
        elif fault.place == "relay":
            self._break_relay(self.running[fault.lot % len(self.running)], fault.what)
        else:
            _spoil(self._links[fault.place], fault.what)

    def _end(self, fault: Fault) -> None:
        node = 1 + fault.lot % self._brokers
        if fault.place == "broker":
            (self._stack.start_broker if fault.what == "kill" else self._stack.resume_broker)(node)
        elif fault.place == "postgres":
            self._stack.start_postgres()
        elif fault.place == "request":
            self._deliver_late()
        elif fault.place == "relay":
            self._mend_relay(fault.lot % len(self.running), fault.what)
        else:
            self._links[fault.place].heal()

    def _break_postgres(self, what: str) -> None:
        if what == "kill":
            self._stack.kill_postgres()
        elif what in {"fast", "immediate"}:
            self._stack.stop_postgres(cast("Literal['fast', 'immediate']", what))
        else:
            of = (
                "backend_type = 'walsender'"
                if what == "walsender"
                else "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
            )
            with psycopg.connect(self._world.endpoints.superuser_dsn, autocommit=True) as connection:
                connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of}")  # type: ignore[arg-type]

    @staticmethod
    def _break_relay(relay: RelayProcess, what: str) -> None:
        if what == "stop":
            # An interpreter that is still starting knows nothing of orderly ends.
            relay.wait_for_log("relay_started")
        relay.signal({"kill": signal.SIGKILL, "stop": signal.SIGTERM, "freeze": signal.SIGSTOP}[what])
        if what == "kill":
            relay.wait_ended()

    def _mend_relay(self, index: int, what: str) -> None:
        relay = self.running[index]
        if what == "freeze":
            relay.signal(signal.SIGCONT)
            return
        # SIGTERM: it may have had to wait for a server that was away, and is through in under 5 s all the same.
        assert relay.wait_ended(15) == (0 if what == "stop" else -signal.SIGKILL), relay.log()[-3000:]
        relay.kill()
        self.running[index] = self._world.relay()

    def _deliver_late(self) -> None:
        """What was captured arrives now, twice; the broker's answer is the relay's luck."""
        self._kafka.forget()
        for late in self._late:
            if late.happened:
                with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                    for _ in range(2):
                        self.counts[f"late {late.request.api}: {late.deliver().name}"] += 1
        self._late.clear()


def _spoil(link: Link, what: str) -> None:
    if what == "reset":
        link.reset()
    elif what == "delay":
        link.slow(delay=0.05)
    elif what == "slow":
        link.slow(bytes_per_second=50_000)
    else:
        link.partition(cast("Way", what))
