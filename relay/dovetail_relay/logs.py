"""The relay's log: one line per event, JSON for machines and text for terminals, with the standard library alone.

Every line has an `event` from the table in `telemetry`, so that scripts match names and not sentences; `message` is for
people and may change. Positions, names and sizes are logged; payloads, keys and passwords never are: what looks like a
credential is blanked out here, whatever was handed in, as the last of several guards.

An error that repeats is logged once, then every 30 s with a count: a relay that waits a night for Kafka must not fill a
disk, and must not fall silent either.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from dovetail_relay.telemetry import LogEvent

Output = Literal["json", "text"]

_ROOT: Final = "dovetail"
_HIDDEN: Final = "***"
_REPEAT_EVERY_SECONDS: Final = 30.0
# Distinct errors remembered at a time; what is forgotten is merely logged once more.
_REPEATS_KEPT: Final = 256
_LONGEST_TEXT: Final = 4000
# What is looked at for credentials: more than is shown, so that a cut never goes through one that is shown.
_LONGEST_LOOK: Final = 4 * _LONGEST_TEXT

_SECRET_NAME: Final = re.compile(r"password|passwd|secret|token|credential|authorization|api_?key", re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(
    r"""((?:password|passwd|secret|token|basic\.auth\.user\.info|sasl\.jaas\.config)["']?\s*[=:]\s*)"""
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,;&]+)""",
    re.IGNORECASE,
)
# Up to the last @ before a slash or a space: passwords with an unescaped @ exist.
_URL_PASSWORD: Final = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]*:)[^\s/]*@", re.IGNORECASE)

_logger: Final = logging.getLogger(_ROOT)
_bound: dict[str, Any] = {}

_EXPECTED: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS: Final = {
    LogEvent.RELAY_HALTED: logging.ERROR,
    LogEvent.RELAY_RESTARTING: logging.WARNING,
    LogEvent.LEAD_LOST: logging.WARNING,
    LogEvent.STALE_LEADER_ENDED: logging.WARNING,
    LogEvent.FENCED: logging.WARNING,
    LogEvent.POSTGRES_LOST: logging.WARNING,
    LogEvent.KAFKA_LOST: logging.WARNING,
    LogEvent.RETRYING: logging.WARNING,
    LogEvent.STREAM_ENDED: logging.WARNING,
    LogEvent.TIMELINE_CHANGED: logging.WARNING,
    LogEvent.CHECKPOINT_WRITTEN: logging.DEBUG,
    LogEvent.BATCH_PUBLISHED: logging.DEBUG,
    LogEvent.BATCH_UNKNOWN: logging.WARNING,
    LogEvent.PRODUCER_RECYCLED: logging.WARNING,
    LogEvent.MESSAGE_STUCK: logging.ERROR,
    LogEvent.KEY_HELD: logging.WARNING,
    LogEvent.REGISTRY_UNREACHABLE: logging.WARNING,
    LogEvent.BOOKS_UNBALANCED: logging.ERROR,
    LogEvent.AUDIT_REWRITTEN: logging.ERROR,
    LogEvent.UNEXPECTED_ERROR: logging.ERROR,
}


def log(
    event: LogEvent, message: str = "", *, level: int | None = None, error: object = None, **fields: object
) -> None:
    """One line. `level` is the event's own unless given. `error` is an exception or a name; it is what counts repeats.

    An exception's class and text are logged, its traceback only for UNEXPECTED_ERROR.
    """
    chosen = _LEVELS.get(event, logging.INFO) if level is None else level
    if not _logger.isEnabledFor(chosen):
        return
    trace = error if isinstance(error, BaseException) and event is LogEvent.UNEXPECTED_ERROR else None
    extra = {"event": event.value, "fields": fields, "error": _error_text(error)}
    _logger.log(chosen, "%s", message, extra=extra, exc_info=trace)


def bind(**fields: object) -> None:
    """Fields that every later line of this process carries: `bind(relay="shop", run_id="…")`. None removes one."""
    for name, value in fields.items():
        if value is None:
            _bound.pop(name, None)
        else:
            _bound[name] = value


def configure(
    *,
    level: str = "info",
    output: Output | str | None = None,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send the log to `stream` (stderr). `output` None is text on a terminal, JSON elsewhere. May be called again."""
    target: TextIO = sys.stderr if stream is None else stream
    if output is None:
        output = "text" if target.isatty() else "json"
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if output == "text" else JsonFormatter())
    handler.addFilter(RepeatFilter(clock))
    _logger.handlers[:] = [handler]
    _logger.setLevel(level.upper())
    # Whatever an embedding program does with the root logger, a line appears once.
    _logger.propagate = False


def redacted(text: str) -> str:
    """`text` without what looks like a credential."""
    return _URL_PASSWORD.sub(rf"\1{_HIDDEN}@", _SECRET_PAIR.sub(rf"\1{_HIDDEN}", text))


class RepeatFilter(logging.Filter):
    """Lets an (event, error) through once, then every 30 s with `repeated`: how many were held back in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = getattr(record, "error", None)
        if error is None:
            return True
        key = (getattr(record, "event", record.name), error)
        now = self._clock()
        with self._lock:
            last, held = self._seen.get(key, (None, 0))
            if last is not None and now - last < _REPEAT_EVERY_SECONDS:
                self._seen[key] = (last, held + 1)
                return False
            # Newest last, so that the one to forget is the first.
            self._seen.pop(key, None)
            self._seen[key] = (now, 0)
            if len(self._seen) > _REPEATS_KEPT:
                del self._seen[next(iter(self._seen))]
        if held:
            record.repeated = held
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ts, level, event, message, what is bound, the fields, `error`, `repeated`."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self._line(record), ensure_ascii=False, default=str)

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        line: dict[str, Any] = {
            "ts": _time(record.created),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", LogEvent.LIBRARY_MESSAGE.value),
            "message": _shown("message", record.getMessage()),
        }
        if not hasattr(record, "event"):
            line["logger"] = record.name
        for name, value in _fields_of(record).items():
            line[name if name not in line else f"{name}_"] = _shown(name, value)
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return line


class TextFormatter(logging.Formatter):
    """For people: time, level, event, message, then `name=value`. Always one line but for tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", record.name)
        parts = [f"{_time(record.created)} {record.levelname.lower():<7} {event}"]
        message = _shown("message", record.getMessage())
        if message:
            parts.append(_one_line(str(message)))
        for name, value in _fields_of(record).items():
            shown = _shown(name, value)
            parts.append(f"{name}={_quoted(shown if isinstance(shown, str) else json.dumps(shown, default=str))}")
        line = "  ".join(parts)
        if record.exc_info:
            line += "\n" + redacted(self.formatException(record.exc_info))
        return line


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What is bound, the line's own fields, the error, the count; foreign records' extras too."""
    own = getattr(record, "fields", None)
    if own is None:
        own = {name: value for name, value in record.__dict__.items() if name not in _EXPECTED}
        own.pop("repeated", None)
        own.pop("event", None)
        own.pop("error", None)
    found = {**_bound, **own}
    for name in ("error", "repeated"):
        value = getattr(record, name, None)
        if value is not None:
            found[name] = value
    return found


def _shown(name: str, value: object) -> object:
    """A value as it may appear: secrets blanked, bytes as their size, long texts cut."""
    if _SECRET_NAME.search(name):
        return _HIDDEN
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {str(key): _shown(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(name, item) for item in value]
    text = redacted(str(value)[:_LONGEST_LOOK])
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def _error_text(error: object) -> str | None:
    if error is None:
        return None
    if isinstance(error, BaseException):
        name = getattr(error, "name", None)
        text = _one_line(str(error))
        label = name if isinstance(name, str) and name.isupper() else type(error).__name__
        return redacted(f"{label}: {text}" if text else label)
    return redacted(_one_line(str(error)))


def _one_line(text: str) -> str:
    """Without line breaks, and without what a terminal would take for a command."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in " ".join(text.split()))


def _quoted(text: str) -> str:
    text = _one_line(text)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r'[\s="]', text) else text


def _time(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
