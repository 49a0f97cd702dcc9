"""A link before Kafka's brokers that understands frames: it counts requests, and decides the fate of single ones.

    with KafkaProxy(stack.endpoints().bootstrap_servers) as proxy:
        late = proxy.on(Api.END_TXN, Fate.CUT, nth=3)      # the third from now: not forwarded, its connection reset
        late.wait().deliver()                              # on a fresh connection; gives the answer's error code

A client stays on the proxy: wherever a broker names an address in an answer, the port is changed to the proxy's. Both
are four bytes behind the same host, so no frame changes its length and no version of an answer needs to be parsed.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import Counter
from enum import Enum, IntEnum, auto
from typing import NamedTuple

from support.link import Address, Link, Pair, addresses

_ANSWER_SECONDS = 15.0


class Api(IntEnum):
    """The requests of a relay that tests speak of."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    FIND_COORDINATOR = 10
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    END_TXN = 26
    DESCRIBE_CLUSTER = 60


_NAMING_BROKERS = frozenset((Api.METADATA, Api.FIND_COORDINATOR, Api.DESCRIBE_CLUSTER))


class Fate(Enum):
    """What happens to a request."""

    PASS = auto()  # forwarded and answered; it can be delivered again
    CUT = auto()  # not forwarded; the connection is reset
    CUT_ANSWER = auto()  # forwarded; its answer is dropped and the connection reset
    HANG = auto()  # not forwarded; the connection is silent from here on
    HANG_ANSWER = auto()  # forwarded; the connection is silent before the answer


class Error(IntEnum):
    """The broker's codes that late requests are answered with."""

    NONE = 0
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    CONCURRENT_TRANSACTIONS = 51
    PRODUCER_FENCED = 90

    @classmethod
    def _missing_(cls, value: object) -> Error | None:
        """Any other code, by its number: a busy broker answers with more than these."""
        if not isinstance(value, int):
            return None
        other = int.__new__(cls, value)
        other._name_, other._value_ = f"CODE_{value}", value
        return other


class Request(NamedTuple):
    """One frame that a client sent, without its length."""

    api: int
    version: int
    correlation: int
    client: str
    broker: Address
    frame: bytes

    @classmethod
    def parse(cls, frame: bytes, broker: Address) -> Request:
        api, version, correlation, length = struct.unpack_from("!hhih", frame)
        client = frame[10 : 10 + max(0, length)].decode()
        return cls(api, version, correlation, client, broker, frame)

    @property
    def body(self) -> bytes:
        """Behind the header, whose tags (flexible versions) are one byte where there are none."""
        length = struct.unpack_from("!h", self.frame, 8)[0]
        return self.frame[10 + max(0, length) :]


class Rule:
    """Which request of an API is meant, what becomes of it, and what became of it."""

    def __init__(
        self,
        proxy: KafkaProxy,
        api: Api,
        fate: Fate,
        *,
        nth: int,
        containing: bytes,
        after: Rule | None,
        delivers: tuple[Rule, ...],
    ) -> None:
        self._proxy = proxy
        self._api = api
        self.fate = fate
        self._left = nth
        self._containing = containing
        self._after = after
        self._delivers = delivers
        self._happened = threading.Event()
        self._request: Request | None = None
        # What the broker said each time when the captured request was delivered once more.
        self.answers: list[Error] = []

    @property
    def happened(self) -> bool:
        return self._happened.is_set()

    @property
    def request(self) -> Request:
        """What was captured."""
        assert self._request is not None, f"no {self._api.name} was captured"
        return self._request

    def becomes(self, frame: bytes) -> None:
        """What is delivered from now on."""
        self._request = self.request._replace(frame=frame)

    def wait(self, timeout: float = 30.0) -> Rule:
        """Until it has happened, and all that it delivers has been answered."""
        assert self._happened.wait(timeout), f"no {self._api.name} came that is meant; {self._proxy.counts}"
        return self

    def deliver(self) -> Error:
        """Now, on a fresh connection."""
        return self._proxy.run(self.arrive())

    # -- on the link's thread -----------------------------------------------------------------------------------------

    def concerns(self, request: Request) -> bool:
        """Counts; true once, for the request that is meant."""
        if request.api != self._api or self._containing not in request.frame:
            return False
        if self._after is not None and not self._after.happened:
            return False
        self._left -= 1
        return self._left == 0

    async def happens(self, request: Request) -> None:
        self._request = request
        for late in self._delivers:
            await late.arrive()
        self._happened.set()

    async def arrive(self) -> Error:
        self.answers.append(await self._proxy.deliver(self.request))
        return self.answers[-1]


class KafkaProxy(Link):
    """Before all brokers of a cluster. `bootstrap_servers` is what a client is given."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.counts: Counter[str] = Counter()
        # Transactions that a client ended by an abort: the relay never does.
        self.aborts = 0
        self._rules: list[Rule] = []
        brokers = addresses(bootstrap_servers)
        super().__init__(*brokers)
        self._renamed = [
            (host.encode() + struct.pack("!i", port), host.encode() + struct.pack("!i", self.ports[host, port]))
            for host, port in brokers
        ]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"{host}:{port}" for (host, _), port in self.ports.items())

    def on(
        self,
        api: Api,
        fate: Fate = Fate.PASS,
        *,
        nth: int = 1,
        containing: bytes = b"",
        after: Rule | None = None,
        delivers: tuple[Rule, ...] = (),
    ) -> Rule:
        """The `nth` request of this API that has these bytes in it, counted from now on, or from when `after` happened.

        Before it takes its way, what the rules in `delivers` have captured arrives, on connections of its own.
        """
        rule = Rule(self, api, fate, nth=nth, containing=containing, after=after, delivers=delivers)
        self._rules.append(rule)
        return rule

    def forget(self) -> None:
        """No request is treated in a special way any more."""
        self._rules.clear()

    async def outward(self, pair: Pair) -> None:
        while True:
            frame = await _frame(pair.client[0])
            request = Request.parse(frame, pair.target)
            self._count(request)
            fate = Fate.PASS
            for rule in list(self._rules):
                if rule.concerns(request):
                    self._rules.remove(rule)
                    await rule.happens(request)
                    fate = fate if rule.fate is Fate.PASS else rule.fate
            if fate is Fate.CUT:
                pair.reset()
                return
            if fate is Fate.HANG:
                pair.silent = True
            pair.notes[request.correlation] = (request.api, fate)
            await self.to_server(pair, _framed(frame))

    async def inward(self, pair: Pair) -> None:
        while True:
            frame = await _frame(pair.server[0])
            api, fate = pair.notes.pop(struct.unpack_from("!i", frame)[0], (None, Fate.PASS))
            if fate is Fate.CUT_ANSWER:
                pair.reset()
                return
            if fate is Fate.HANG_ANSWER:
                pair.silent = True
            if api in _NAMING_BROKERS:
                for real, ours in self._renamed:
                    frame = frame.replace(real, ours)
            await self.to_client(pair, _framed(frame))

    async def deliver(self, request: Request) -> Error:
        """A captured request, as it was, over a connection of its own."""
        reader, writer = await asyncio.open_connection(*request.broker)
        try:
            writer.write(_framed(request.frame))
            answer = await asyncio.wait_for(_frame(reader), _ANSWER_SECONDS)
        finally:
            writer.close()
        return error_code(request, answer)

    def _count(self, request: Request) -> None:
        name = Api(request.api).name if request.api in set(Api) else str(request.api)
        self.counts[name] += 1
        if request.api == Api.END_TXN and not request.body[-1]:
            self.aborts += 1


def error_code(request: Request, answer: bytes) -> Error:
    """The first error in an answer, for the versions that librdkafka speaks."""
    body = answer[4:]
    if request.api == Api.END_TXN and request.version <= 2:
        return Error(struct.unpack_from("!h", body, 4)[0])
    if request.api == Api.INIT_PRODUCER_ID and 2 <= request.version <= 5:
        return Error(struct.unpack_from("!h", body, 5)[0])
    if request.api == Api.ADD_PARTITIONS_TO_TXN and request.version <= 2:
        # throttle, [topic [partition, error]]
        name = struct.unpack_from("!h", body, 8)[0]
        return Error(struct.unpack_from("!h", body, 10 + name + 8)[0])
    if request.api == Api.PRODUCE and 9 <= request.version <= 10:
        # tags, [topic [partition, error, ...]]; each length is one more than the count, below 128 in one byte.
        name = body[2] - 1
        return Error(struct.unpack_from("!h", body, 3 + name + 1 + 4)[0])
    raise AssertionError(f"the answer to version {request.version} of {Api(request.api).name} is not known here")


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(struct.unpack("!i", await reader.readexactly(4))[0])


def _framed(frame: bytes) -> bytes:
    return struct.pack("!i", len(frame)) + frame
