"""A link before PostgreSQL that reads what the relay says on its replication connection.

It parses the frontend's messages after the start-up packet, forwards everything as it is, and hands each standby status
update (CopyData 'r') to `on_feedback` before forwarding it: what the server will believe is judged before it can.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from support.link import Address, Link, Pair

_STATUS = struct.Struct("!cQQQqb")
_PROTOCOL = 3


class FeedbackProxy(Link):
    """Forwards to `target`. `on_feedback(flush)` runs on a thread of its own; the update waits for it."""

    def __init__(self, target: Address, on_feedback: Callable[[int], None]) -> None:
        self._on_feedback = on_feedback
        super().__init__(target)

    async def outward(self, pair: Pair) -> None:
        said = pair.client[0].readexactly
        while True:
            length = await said(4)
            packet = await said(struct.unpack("!I", length)[0] - 4)
            await self.to_server(pair, length + packet)
            # Requests for TLS or GSS encryption come first and are answered with one byte; then the real start.
            if struct.unpack("!I", packet[:4])[0] >> 16 == _PROTOCOL:
                break
        while True:
            head = await said(5)
            body = await said(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"d" and body[:1] == b"r":
                await asyncio.to_thread(self._on_feedback, _STATUS.unpack(body)[2])
            await self.to_server(pair, head + body)
