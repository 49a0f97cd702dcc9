"""The names and forms of the headers on every Kafka record, and which names belong to users."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from dovetail_schemas.errors import TimeInvalid

ID = "id"
TYPE = "type"
TIME = "time"
POSITION = "position"
TRACEPARENT = "traceparent"
REPLAY = "replay"
# On dead letters: why the message is one, in a word and in a line, and the topic that it was for.
STUCK_REASON = "dovetail_reason"
STUCK_MESSAGE = "dovetail_message"
STUCK_TOPIC = "dovetail_topic"
# Only beside CloudEvents' headers; a service may set its own.
CONTENT_TYPE = "content-type"

# Trace context is the user's to set (traceparent, tracestate, baggage): the relay copies it as it is.
RESERVED = frozenset({ID, TYPE, TIME, POSITION, REPLAY})
RESERVED_PREFIXES = ("ce_", "dovetail_")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_US = 1_000_000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


def is_reserved(name: str) -> bool:
    """Whether users may not set a header of this name. Case does not help: some readers fold it."""
    lowered = name.lower()
    return lowered in RESERVED or lowered.startswith(RESERVED_PREFIXES)


# Neighbouring records share their second; the relay formats one time per record.
@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
    except OverflowError:
        raise TimeInvalid(f"{seconds} seconds since 1970 is outside the years 1 to 9999") from None


def format_time(us_since_epoch: int) -> str:
    """Microseconds since 1970 UTC as `2026-01-31T23:59:59.123456Z`."""
    seconds, micros = divmod(us_since_epoch, _SECOND_US)
    return f"{_second(seconds)}.{micros:06d}Z"


def parse_time(text: str) -> int:
    """Read exactly what `format_time` writes, as microseconds since 1970; anything else raises `TimeInvalid`."""
    if _TIME.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return (moment - _EPOCH) // timedelta(microseconds=1)
    raise TimeInvalid(f"{text[:80]!r} is not a time; one looks like 2026-01-31T23:59:59.123456Z")
