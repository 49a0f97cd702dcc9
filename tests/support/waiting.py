"""Waiting for facts: the only place in the tests that sleeps."""

import time
from collections.abc import Callable

_PAUSE_SECONDS = 0.02


def after(seconds: float) -> Callable[[], bool]:
    """A condition that turns true so many seconds from now: for a fault that must last, or a moment drawn by lot."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Return once `condition()` is true; fail with `what` where it does not become so in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            message = f"not within {timeout:g} s: {what}"
            raise AssertionError(message)
        time.sleep(_PAUSE_SECONDS)
