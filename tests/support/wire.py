"""A proxy before PostgreSQL that reads what the relay says on its replication connection.

It parses the frontend's messages after the start-up packet, forwards everything as it is, and hands each standby status
update (CopyData 'r') to `on_feedback` before forwarding it: what the server will believe is judged before it can.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

_STATUS = struct.Struct("!cQQQqb")


class FeedbackProxy:
    """Listens on `port`; forwards to `target`. `on_feedback(flush)` runs on the connection's thread."""

    def __init__(self, target: tuple[str, int], on_feedback: Callable[[int], None]) -> None:
        self._target = target
        self._on_feedback = on_feedback
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.errors: list[BaseException] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for opened in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
                threading.Thread(target=self._read_frontend, args=(client, server), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.close()

    def _read_frontend(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while True:
                length = _exactly(client, 4)
                packet = _exactly(client, struct.unpack("!I", length)[0] - 4)
                server.sendall(length + packet)
                # Requests for TLS or GSS encryption come first and are answered with one byte; then the real start.
                if struct.unpack("!I", packet[:4])[0] >> 16 == 3:
                    break
            while True:
                head = _exactly(client, 5)
                body = _exactly(client, struct.unpack("!I", head[1:])[0] - 4)
                if head[:1] == b"d" and body[:1] == b"r":
                    self._on_feedback(_STATUS.unpack(body)[2])
                server.sendall(head + body)
        except (OSError, EOFError):
            pass
        except BaseException as error:  # judged by the test, on its own thread
            self.errors.append(error)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.close()


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
