"""From what a file, a variable or a flag gives to a typed value, or a sentence that says what is allowed.

Each parser takes the raw value (a string from the environment or a flag, a TOML value from the file) and raises
`BadValue` with the offending value, cut to 80 characters, and the allowed range. Pure.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_SHOWN_CHARACTERS = 80

# As PostgreSQL's own size settings count: a kB is 1024 bytes.
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20, "gb": 1 << 30, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d{1,12})\s*([a-zA-Z]{0,3})\s*")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_RELAY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_ROUTE_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_PART = r'(?:"((?:[^"]|"")+)"|([^".\s]+))'
_QUALIFIED = re.compile(rf"(?:{_PART}\.)?{_PART}")
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
# A colon in the first part makes a scheme of what is before it.
_URI_FIRST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[^:/?#]*(?:[/?#]|$)")
_GLOB = re.compile(r"[a-zA-Z0-9._*?\[\]!-]{1,249}")

# PostgreSQL cuts longer names with only a NOTICE, and then two names may become one.
_MAX_IDENTIFIER_BYTES = 63


# The columns of an outbox that the relay reads, as `[outbox.columns]` names them; a test holds them to the decoder's.
_COLUMNS = (
    "id", "aggregatetype", "aggregateid", "type", "payload", "schema_fingerprint", "encoding", "headers", "created_at",
)  # fmt: skip


class BadValue(ValueError):
    """What was wrong with one value and what is allowed. `str()` goes behind the dotted path."""


def shown(value: object) -> str:
    """The value as it may stand in a message: quoted, one line, at most 80 characters."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = one_line(text)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def one_line(message: str) -> str:
    """A message without line breaks and without characters that a terminal would obey; names in it may be anything."""
    flat = "".join(character if character.isprintable() else " " for character in message)
    return " ".join(flat.split())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def text(value: object) -> str:
    """Any one-line string that is not blank."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is not a string")
    if not value.strip() or "\n" in value or "\0" in value:
        raise BadValue(f"{shown(value)} is not one line of text")
    return value.strip()


def flag(value: object) -> bool:
    """true or false, and the words that environments use for them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise BadValue(f"{shown(value)} is neither true nor false")


def whole(low: int, high: int) -> Callable[[object], int]:
    """A whole number from `low` to `high`."""

    def parse(value: object) -> int:
        number = _integer(value)
        if number is None:
            raise BadValue(f"{shown(value)} is not a whole number from {low} to {high}")
        if not low <= number <= high:
            raise BadValue(f"{shown(number)} is outside {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[object], float]:
    """A number of seconds from `low` to `high`."""

    def parse(value: object) -> float:
        try:
            number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            number = None
        if number is None or not low <= number <= high:
            raise BadValue(f"{shown(value)} is not a number of seconds from {low:g} to {high:g}")
        return number

    return parse


def size(low: int, high: int) -> Callable[[object], int]:
    """Bytes: 4194304, "4MB" or "4 mb" (a kB is 1024 bytes, as in PostgreSQL's settings)."""

    def parse(value: object) -> int:
        number = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and match[2].lower() in _UNITS:
            number = int(match[1]) * _UNITS[match[2].lower()]
        if number is None:
            raise BadValue(f"{shown(value)} is not a size such as 4MB; units are B, kB, MB, GB")
        if not low <= number <= high:
            raise BadValue(f"{shown(value)} is outside {size_text(low)} to {size_text(high)}")
        return number

    return parse


def size_text(number: int) -> str:
    """The shortest exact form: 4194304 → `4MB`."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if number >= factor and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def one_of(*allowed: str) -> Callable[[object], str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value.strip() in allowed:
            return value.strip()
        near = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise BadValue(f"{shown(value)} is not one of {', '.join(allowed)}{near}")

    return parse


def slot_name(value: object) -> str:
    """PostgreSQL's rule for replication slots."""
    if isinstance(value, str) and _SLOT.fullmatch(value):
        return value
    raise BadValue(f"{shown(value)} is not a slot name: 1 to 63 of a-z, 0-9 and _")


def relay_name(value: object) -> str:
    """Short enough that the slot and the checkpoint topic made of it stay within their limits."""
    if isinstance(value, str) and _RELAY_NAME.fullmatch(value):
        return value
    raise BadValue(
        f"{shown(value)} is not a relay name: 1 to 40 of a-z, 0-9, _ and -, beginning with a letter or digit"
    )


def route_name(value: object) -> str:
    """What may stand behind `routes.`: it is the aggregate type unless the route says otherwise."""
    if isinstance(value, str) and _ROUTE_NAME.fullmatch(value):
        return value
    raise BadValue(f"{shown(value)} is not a route name: 1 to 200 of a-z, A-Z, 0-9, '.', _ and -")


def identifier(value: object) -> str:
    """A PostgreSQL name of at most 63 bytes. It is always quoted, so every character but NUL is legal."""
    name = text(value)
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_IDENTIFIER_BYTES:
        raise BadValue(f"{shown(name)} is longer than {_MAX_IDENTIFIER_BYTES} bytes")
    return name


def qualified_name(value: object) -> str:
    """`table` or `schema.table`; quote a part that holds a dot: `"my.schema".outbox`."""
    split_qualified(text(value))
    return text(value)


def split_qualified(name: str) -> tuple[str, str]:
    """Schema and table of a name; `public` when there is no schema."""
    match = _QUALIFIED.fullmatch(name.strip())
    if match is None:
        raise BadValue(f"{shown(name)} is not a table name such as outbox or dovetail.outbox")
    quoted_schema, schema, quoted_table, table = match.groups()
    parts = [
        quoted.replace('""', '"') if quoted is not None else plain
        for quoted, plain in ((quoted_schema, schema), (quoted_table, table))
    ]
    for part in filter(None, parts):
        identifier(part)
    return parts[0] or "public", parts[1]


def topic_problem(name: str) -> str | None:
    """Why Kafka or we would refuse this topic name; None when it is fine."""
    if name in {".", ".."} or not _TOPIC.fullmatch(name):
        return f"{shown(name)} is not a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', _ and -, and not '.' or '..'"
    if name.startswith("__"):
        return f"{shown(name)} is one of Kafka's own topics (they begin with __)"
    return None


def topic(value: object) -> str:
    """A topic name that Kafka accepts and that is not one of its own."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is not a topic name")
    if problem := topic_problem(value):
        raise BadValue(problem)
    return value


def topic_template(value: object) -> str:
    """A topic name in which `{aggregatetype}` stands once for the row's aggregate type."""
    name = text(value)
    if name.count("{aggregatetype}") != 1 or topic_problem(name.replace("{aggregatetype}", "x")):
        raise BadValue(f"{shown(name)} is not a topic template such as 'outbox.event.{{aggregatetype}}'")
    return name


def globs(value: object) -> tuple[str, ...]:
    """A list of topic globs; from the environment separated by commas."""
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items:
        raise BadValue(f"{shown(value)} is not a list of topic globs such as ['outbox.event.*']")
    for item in items:
        if not isinstance(item, str) or not _GLOB.fullmatch(item):
            raise BadValue(f"{shown(item)} is not a topic glob: a topic name with *, ? or [...]")
    return tuple(items)


def string_map(value: object) -> Mapping[str, str]:
    """A table of strings; from the environment `a=b,c=d`."""
    if isinstance(value, str):
        value = dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
    if not isinstance(value, Mapping) or not all(isinstance(v, str) and v for v in value.values()):
        raise BadValue(f'{shown(value)} is not a table of names such as {{ payload = "body" }}')
    return {str(key): str(name) for key, name in value.items()}


def column_map(value: object) -> Mapping[str, str]:
    """our column -> the table's column; a name that is not one of ours would silently do nothing."""
    found = string_map(value)
    for ours, theirs in found.items():
        if ours not in _COLUMNS:
            raise BadValue(f"{shown(ours)} is not one of {', '.join(_COLUMNS)}{did_you_mean(ours, _COLUMNS)}")
        identifier(theirs)
    read: dict[str, str] = {}
    for ours in _COLUMNS:
        theirs = found.get(ours, ours)
        if theirs in read:
            raise BadValue(f"{shown(theirs)} is read as {read[theirs]} and as {ours}; each needs a column of its own")
        read[theirs] = ours
    return found


def http_url(value: object) -> str:
    """Where a registry is: `http://` or `https://`, and a host."""
    given = text(value)
    try:
        parts = urlsplit(given)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or " " in given:
        raise BadValue(f"{shown(given)} is not a URL such as https://registry.internal:8081")
    return given


def uri_reference(value: object) -> str:
    """What CloudEvents want of a source: a URI, or a path of one (RFC 3986)."""
    given = text(value)
    if not _URI_REFERENCE.fullmatch(given) or not _URI_FIRST.match(given):
        raise BadValue(f"{shown(given)} is not a URI or the path of one, such as /shop/orders or https://shop.example")
    return given


def some_of(*allowed: str) -> Callable[[object], tuple[str, ...]]:
    """A list of a few words, each once; from the environment separated by commas. A single word is a list of one."""
    one = one_of(*allowed)

    def parse(value: object) -> tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not items:
            raise BadValue(f"{shown(value)} is not a list of {', '.join(allowed)}")
        return tuple(dict.fromkeys(one(item) for item in items))

    return parse


def brokers(value: object) -> str:
    """`host:port` pairs separated by commas, blanks taken out; IPv6 in brackets; ports 1 to 65535."""
    items = value if isinstance(value, (list, tuple)) else str(value).split(",") if isinstance(value, str) else []
    pairs = [split_broker(item) for item in items]
    if not pairs:
        raise BadValue(f"{shown(value)} is not a list of brokers such as 'kafka-1:9093,kafka-2:9093'")
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in pairs)


def split_broker(item: object) -> tuple[str, int]:
    """Host and port of one broker."""
    if not isinstance(item, str):
        raise BadValue(f"{shown(item)} is not a broker such as kafka-1:9093")
    bare = item.strip()
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,6})", bare)
    if match is None:
        if bare.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.%]+", bare):
            raise BadValue(f"{shown(bare)}: write an IPv6 address in brackets: [::1]:9092")
        raise BadValue(f"{shown(bare)} is not host:port")
    port = int(match[3])
    if not 1 <= port <= 65535:
        raise BadValue(f"{shown(bare)}: port {port} is outside 1 to 65535")
    return match[1] or match[2], port


def is_loopback(host: str) -> bool:
    """Whether traffic to this host never leaves the machine. Names other than localhost are not resolved."""
    bare = host.strip().strip("[]").split("%")[0].lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value):
        return int(value)
    return None
