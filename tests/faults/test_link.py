"""The links themselves: what the other tests of this folder rely on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from support.link import Link
from support.waiting import wait_until


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.got = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(1000):
                    self.got += data
                    client.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    with Link(echo.address) as made:
        yield made


def connected(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=5)


def test_what_is_sent_into_a_partition_arrives_after_it_though_its_sender_has_given_up(echo: Echo, link: Link) -> None:
    client = connected(link)
    client.sendall(b"before")
    assert client.recv(100) == b"before"
    link.partition()
    client.sendall(b" late")
    client.close()
    client = connected(link)
    client.settimeout(0.2)
    client.sendall(b" new")
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert echo.got == b"before"
    link.heal()
    wait_until(lambda: sorted(echo.got.split()) == [b"before", b"late", b"new"], 5, "all has arrived")
    client.close()


@pytest.mark.parametrize(("way", "arrives"), [("to_server", b""), ("to_client", b"x")])
def test_a_partition_of_one_way_lets_the_other_through(echo: Echo, link: Link, way: str, arrives: bytes) -> None:
    client = connected(link)
    client.sendall(b"1")
    assert client.recv(1) == b"1"
    link.partition(way)  # type: ignore[arg-type]
    client.sendall(b"x")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.got == b"1" + arrives
    link.heal()
    client.settimeout(5)
    assert client.recv(1) == b"x"
    client.close()


def test_a_reset_is_a_reset(link: Link) -> None:
    client = connected(link)
    client.sendall(b"1")
    assert client.recv(1) == b"1"
    assert link.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()


def test_delay_and_rate_are_felt(link: Link) -> None:
    client = connected(link)
    for weather in ({"delay": 0.1}, {"bytes_per_second": 50.0}):
        link.slow(**weather)
        started = time.monotonic()
        client.sendall(b"0123456789")
        assert client.recv(10)
        # There and back.
        assert time.monotonic() - started > 0.19
    client.close()
