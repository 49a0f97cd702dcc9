"""Ports on 127.0.0.1 that nobody uses."""

import random
import socket

LOOPBACK = "127.0.0.1"
# Below the range from which systems take the near end of outgoing connections: a stopped server's port stays free
# for its return, and a client that retries it can never be connected to itself.
_FIRST, _LAST = 20_000, 32_000
_CHOICE = random.SystemRandom()


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do it: connections of the last run that still linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Choose different free ports. Nothing reserves them: the caller starts its server soon."""
    found: list[int] = []
    while len(found) < count:
        port = _CHOICE.randrange(_FIRST, _LAST)
        if port not in found and is_free(port):
            found.append(port)
    return found


def accepts(port: int) -> bool:
    """Tell whether somebody listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
