"""Event ids: UUID version 7, ascending within the process, so that neighbours in time are neighbours in the index."""

import os
import random
import threading
import time
from uuid import UUID

_VERSION = 7 << 76
_VARIANT = 2 << 62
_RANDOM_BITS = 62
_MILLISECOND_NS = 1_000_000

# A generator of our own: a system call per id is dear beside an INSERT, and random.seed in the service must not make
# two processes agree. A forked child starts from fresh entropy.
_random = random.Random()  # noqa: S311 - ids must be unique, not secret
_bits = _random.getrandbits

_lock = threading.Lock()
_last = 0


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _random.seed()


os.register_at_fork(after_in_child=_after_fork)


def uuid7() -> UUID:
    """A new id, greater than every id this process made before, also when the clock steps back.

    The 12 bits after the milliseconds hold their fraction (RFC 9562, method 3); 62 bits are random.
    """
    global _last  # noqa: PLW0603 - the counter is the point
    milliseconds, rest = divmod(time.time_ns(), _MILLISECOND_NS)
    moment = milliseconds << 12 | (rest << 12) // _MILLISECOND_NS
    with _lock:
        if moment <= _last:
            moment = _last + 1
        _last = moment
    return UUID(int=(moment >> 12) << 80 | _VERSION | (moment & 0xFFF) << 64 | _VARIANT | _bits(_RANDOM_BITS))
