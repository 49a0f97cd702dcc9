"""A Kafka record as an event that a person or a script can read. Pure: whatever the bytes are, it never raises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dovetail_relay.observe.printable import json_line, printable, shortened
from dovetail_relay.observe.schemas import SchemaUnavailable
from dovetail_schemas import headers as names
from dovetail_schemas.avro import BadFraming, Codec, DecodeError, unframe

_OURS: Final = {names.ID, names.TYPE, names.TIME, names.POSITION}
# What one line on a terminal can carry; `--output jsonl` has it all.
_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as Kafka has it. `stamp_seconds` is its own timestamp, Unix seconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    stamp_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One record. `problem` says why there is no payload; `time` is the event's, else the record's own."""

    topic: str
    partition: int
    offset: int
    time: str | None
    id: str | None
    type: str | None
    key: str | None
    position: str | None
    headers: dict[str, str | None]
    schema_id: int | None = None
    payload: Any = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What `--output json` prints; `problem` is there only with one."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "problem"}
        return shown if self.problem is None else {**shown, "problem": self.problem}

    def line(self) -> str:
        """What a terminal shows."""
        where = f"{printable(self.topic)}[{self.partition}]@{self.offset}"
        said = [_cell(value) for value in (self.time, where, self.type, self.key, self.id)]
        if self.problem is not None:
            last = f"undecodable: {printable(self.problem)}"
        else:
            last = shortened(json_line(self.payload), _SHOWN)
        return "  ".join([*said, last])


def read(raw: Raw, codec_of: Callable[[int], Codec] | None) -> Event:
    """Put an event together. `codec_of` None: the topic carries values as they were written, not Confluent frames."""
    texts = [(name, text(value)) for name, value in raw.headers]
    ours = {name: value for name, value in reversed(texts) if name in _OURS}
    schema_id, payload, problem = _payload(raw.value, codec_of)
    return Event(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        time=ours.get(names.TIME) or _moment(raw.stamp_seconds),
        id=ours.get(names.ID),
        type=ours.get(names.TYPE),
        key=text(raw.key),
        position=ours.get(names.POSITION),
        headers={name: value for name, value in texts if name not in _OURS},
        schema_id=schema_id,
        payload=payload,
        problem=problem,
    )


def text(raw: bytes | str | None) -> str | None:
    """UTF-8; what is none shows as `\\xff`."""
    if raw is None or isinstance(raw, str):
        return raw
    return raw.decode("utf-8", "backslashreplace")


def rendered(datum: Any) -> Any:
    """A decoded value as JSON can hold it: decimals and dates as text, bytes as `0x…`, what is no number as a word."""
    match datum:
        case None | bool() | int() | str():
            return datum
        case float():
            return datum if math.isfinite(datum) else str(datum)
        case dict():
            return {str(name): rendered(value) for name, value in datum.items()}
        case list() | tuple():
            return [rendered(value) for value in datum]
        case bytes() | bytearray() | memoryview():
            return "0x" + bytes(datum).hex()
        case datetime():
            return datum.isoformat().replace("+00:00", "Z")
        case date() | time():
            return datum.isoformat()
        case Decimal():
            return f"{datum:f}"
        case UUID():
            return str(datum)
        case _:
            return str(datum)


def event_id(found: Sequence[tuple[str, Any]] | None) -> bytes | None:
    """The `id` header as it is; the relay writes it first."""
    for name, value in found or ():
        if name == names.ID:
            return value if isinstance(value, bytes) else None
    return None


def _payload(value: bytes | None, codec_of: Callable[[int], Codec] | None) -> tuple[int | None, Any, str | None]:
    schema_id = None
    if value is None:
        return None, None, "the value is null (a tombstone)"
    if codec_of is None:
        return None, _as_written(value), None
    try:
        schema_id, body = unframe(value)
        return schema_id, rendered(codec_of(schema_id).decode(body)), None
    except (BadFraming, DecodeError, SchemaUnavailable) as error:
        return schema_id, None, str(error)
    except (RecursionError, ValueError, OverflowError) as error:
        return schema_id, None, f"it cannot be shown: {type(error).__name__}"


def _as_written(value: bytes) -> Any:
    try:
        plain = value.decode()
    except UnicodeDecodeError:
        return "0x" + value.hex()
    try:
        return rendered(json.loads(plain, parse_float=_number))
    except (ValueError, RecursionError):
        return plain


def _number(written: str) -> float | str:
    """A number with a fraction where a float holds all of it; else its text: an amount must not be shown as another."""
    number = float(written)
    try:
        return number if math.isfinite(number) and Decimal(repr(number)) == Decimal(written) else written
    except ArithmeticError:  # an exponent beyond what a decimal has
        return written


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def _cell(value: str | None) -> str:
    return "-" if not value else shortened(printable(value), 200)
