"""A link between clients and servers that a test can make bad: slow, late, dead one way or both ways, reset.

It behaves as a network does. What is sent into a partition is not lost: it waits, and arrives after the healing, even
where its sender has given up meanwhile. New connections are accepted in a partition and stay silent until it heals.

One thread per link runs an event loop; the methods without `async` are for the test's thread and return when the thing
is so. `outward` and `inward` are what a link that understands its protocol overrides.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

Address = tuple[str, int]
Way = Literal["both", "to_server", "to_client"]
T = TypeVar("T")

_CHUNK = 65536
_ANSWER_SECONDS = 30.0
# Closing with this set sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Pair:
    """One connection: the client's half and the server's."""

    target: Address
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    # For links that match answers to requests.
    notes: dict[int, Any] = field(default_factory=dict)
    # Set, it carries nothing any more and stays open.
    silent: bool = False

    def reset(self) -> None:
        for _, writer in (self.client, self.server):
            _reset(writer)


class Link:
    """Listens on `ports[address]` for each address in `targets`."""

    def __init__(self, *targets: Address) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()
        self._pairs: set[Pair] = set()
        self._waiting: set[asyncio.StreamWriter] = set()
        self._to_server = self._to_client = True
        self._healed = asyncio.Condition()
        self._delay = 0.0
        self._bytes_per_second = math.inf
        self.errors: list[BaseException] = []
        self.connections = 0
        self.bytes = {"to_server": 0, "to_client": 0}
        self._servers = [self.run(self._listen(target)) for target in targets]
        self.ports: dict[Address, int] = {
            target: server.sockets[0].getsockname()[1] for target, server in zip(targets, self._servers, strict=True)
        }

    @property
    def port(self) -> int:
        """Of the first target."""
        return next(iter(self.ports.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_SECONDS)
        self._loop.close()

    # -- the weather --------------------------------------------------------------------------------------------------

    def partition(self, way: Way = "both") -> None:
        """From now on nothing arrives, one way or both ways."""
        self.run(self._set_open(to_server=way == "to_client", to_client=way == "to_server"))

    def slow(self, *, delay: float = 0.0, bytes_per_second: float = math.inf) -> None:
        """What passes takes `delay` seconds more, and no more than so many bytes pass per second and connection."""
        self._delay, self._bytes_per_second = delay, bytes_per_second

    def heal(self) -> None:
        """Good weather; what waited arrives."""
        self.slow()
        self.run(self._set_open(to_server=True, to_client=True))

    def reset(self) -> int:
        """Reset every connection; how many there were."""
        return self.run(self._reset_all())

    # -- what a link that knows its protocol overrides ----------------------------------------------------------------

    async def outward(self, pair: Pair) -> None:
        """Carry from the client to the server until either ends."""
        await self._carry(pair.client[0], lambda data: self.to_server(pair, data))

    async def inward(self, pair: Pair) -> None:
        """Carry from the server to the client until either ends."""
        await self._carry(pair.server[0], lambda data: self.to_client(pair, data))

    async def to_server(self, pair: Pair, data: bytes) -> None:
        await self._pass(pair, pair.server[1], data, lambda: self._to_server)
        self.bytes["to_server"] += len(data)

    async def to_client(self, pair: Pair, data: bytes) -> None:
        await self._pass(pair, pair.client[1], data, lambda: self._to_client)
        self.bytes["to_client"] += len(data)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the link's thread and give its result; from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _listen(self, target: Address) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(target, reader, writer)

        return await asyncio.start_server(accepted, "127.0.0.1", 0, limit=1 << 20)

    async def _serve(self, target: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._waiting.add(writer)
        try:
            await self._until(lambda: self._to_server and self._to_client)
            server = await asyncio.open_connection(*target, limit=1 << 20)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
            return
        finally:
            self._waiting.discard(writer)
        pair = Pair(target, (reader, writer), server)
        self._pairs.add(pair)
        self.connections += 1
        try:
            # Each way ends by itself: a client that has given up may have said something that is still under way.
            await asyncio.gather(
                self._one_way(self.outward(pair), pair.server[1]), self._one_way(self.inward(pair), pair.client[1])
            )
        except asyncio.CancelledError:
            pass
        finally:
            self._pairs.discard(pair)
            for _, end in (pair.client, pair.server):
                end.close()

    async def _one_way(self, carrying: Coroutine[Any, Any, None], sink: asyncio.StreamWriter) -> None:
        try:
            await carrying
        except (OSError, asyncio.IncompleteReadError):
            pass
        except Exception as error:  # judged by the test, on its own thread
            self.errors.append(error)
        with contextlib.suppress(OSError):
            sink.write_eof()

    @staticmethod
    async def _carry(source: asyncio.StreamReader, sink: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        while data := await source.read(_CHUNK):
            await sink(data)

    async def _pass(self, pair: Pair, sink: asyncio.StreamWriter, data: bytes, is_open: Callable[[], bool]) -> None:
        await _nap(self._delay + len(data) / self._bytes_per_second)
        await self._until(is_open)
        if not pair.silent:
            sink.write(data)
            await sink.drain()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._healed:
            await self._healed.wait_for(condition)

    async def _set_open(self, *, to_server: bool, to_client: bool) -> None:
        async with self._healed:
            self._to_server, self._to_client = to_server, to_client
            self._healed.notify_all()

    async def _reset_all(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        for writer in list(self._waiting):
            _reset(writer)
        return len(pairs)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        await self._reset_all()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def addresses(bootstrap_servers: str) -> Sequence[Address]:
    """`host:port,host:port` as addresses."""
    split = (one.rpartition(":") for one in bootstrap_servers.split(","))
    return [(host, int(port)) for host, _, port in split]


def _reset(writer: asyncio.StreamWriter) -> None:
    opened: socket.socket | None = writer.get_extra_info("socket")
    if opened is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _nap(seconds: float) -> None:
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), seconds)
