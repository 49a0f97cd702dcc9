"""Where the values come from: file, environment, flags; later ones win, key by key.

`gather` reads and flattens, `parse_sections` turns what was gathered into the section dataclasses. Both collect
problems instead of stopping at the first one.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dovetail_relay.settings import kafka_rules, values
from dovetail_relay.settings.secret import Secret
from dovetail_relay.settings.sections import DeliverySection, Kafka, Log, Outbox, Postgres, Registry, Relay, Route

DEFAULT_FILE = "dovetail.toml"
PREFIX = "DOVETAIL_"

# A configuration is a page or two; more is the wrong file.
_MAX_FILE_BYTES = 1 << 20
_MAX_IDENTIFIER_BYTES = 63

PLAIN_SECTIONS: Mapping[str, type[Any]] = {
    "postgres": Postgres,
    "outbox": Outbox,
    "registry": Registry,
    "delivery": DeliverySection,
    "relay": Relay,
    "log": Log,
}
SECTIONS = (*PLAIN_SECTIONS, "kafka", "routes", "console")
_KAFKA_OWN = ("bootstrap_servers", "insecure", "allowed_topics")
_FILE_SUFFIX = "_file"


@dataclass(slots=True)
class Gathered:
    """section -> key -> (value, origin); for routes the section is `routes.<name>`."""

    found: dict[str, dict[str, tuple[object, str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    # Whether there is a file and it could not be read.
    unread: bool = False

    def put(self, section: str, key: str, value: object, origin: str) -> None:
        """Set one key; what was there before loses."""
        self.found.setdefault(section, {})[key] = (value, origin)

    def origins(self) -> Mapping[str, str]:
        """dotted path -> where its value came from."""
        return MappingProxyType(
            {f"{section}.{key}": origin for section, keys in self.found.items() for key, (_, origin) in keys.items()},
        )


def gather(path: Path | str | None, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Gathered:
    """Everything that is given, flattened. `path` wins over `DOVETAIL_CONFIG`, that over `./dovetail.toml`."""
    gathered = Gathered()
    _from_file(gathered, path, environ)
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix(PREFIX)
        if name == variable or "__" not in name:
            continue  # DOVETAIL_CONFIG, or what a container platform puts there for a service called dovetail
        section, _, key = name.partition("__")
        _put_flat(gathered, section.lower(), key, value, f"environment {variable}")
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        if section == "routes":
            name, _, key = key.rpartition(".")
            gathered.put(f"routes.{name}", key, value, "flag")
        elif key and section in SECTIONS:
            gathered.put(section, key, value, "flag")
        else:
            gathered.problems.append(f"{dotted}: unknown key{values.did_you_mean(section, SECTIONS)}")
    return gathered


def _from_file(gathered: Gathered, path: Path | str | None, environ: Mapping[str, str]) -> None:
    named = path or environ.get(PREFIX + "CONFIG")
    file = Path(named) if named else Path(DEFAULT_FILE)
    if not named and not file.is_file():
        return
    try:
        document = _document(file)
    except _Unreadable as problem:
        gathered.problems.append(f"{file}: {problem}")
        gathered.unread = True
    else:
        for section, table in document.items():
            _put_table(gathered, section, table)


class _Unreadable(Exception):
    """Why a file is no configuration, without a word of what is in it."""


def _document(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise _Unreadable(f"is larger than {values.size_text(_MAX_FILE_BYTES)}")
        text = file.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise _Unreadable("begins with a byte order mark; save it as UTF-8 without one (without BOM)")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise _Unreadable("does not exist") from None
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _Unreadable("is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # The decoder's message gives line and column; it does not quote the line, which may hold a password.
        raise _Unreadable(f"is not TOML: {_toml_message(error)}") from None


# The decoder names a table, which is no secret; of anything else its message gives the place only.
_TWICE = re.compile(r"Cannot declare \((.*)\) twice \(at ([^)]*)\)")


def _toml_message(error: Exception) -> str:
    message = str(error)
    if (twice := _TWICE.match(message)) is not None:
        name = ".".join(re.findall(r"'([^']*)'", twice[1]))
        return f"the table [{name}] is there twice, the second time at {twice[2]}; put its keys into one"
    if message.startswith("Cannot overwrite a value"):
        return f"a key is given twice, the second time at {message.rpartition('(at ')[2].rstrip(')')}"
    _, at, place = message.rpartition("(at ")
    return place.rstrip(")") if at else "it cannot be parsed"


def _put_table(gathered: Gathered, section: str, table: object) -> None:
    if section not in SECTIONS:
        gathered.problems.append(f"{section}: unknown section{values.did_you_mean(section, SECTIONS)}")
    elif not isinstance(table, dict):
        gathered.problems.append(f"{section}: is a section: [{section}]")
    elif section == "routes":
        for name, route in table.items():
            if isinstance(route, dict):
                gathered.found.setdefault(f"routes.{name}", {})
                for key, value in route.items():
                    gathered.put(f"routes.{name}", key, value, "file")
            else:
                gathered.problems.append(f"routes.{name}: is a section: [routes.{name}]")
    else:
        flat = _flatten(table) if section == "kafka" else table
        for key, value in flat.items():
            gathered.put(section, key, value, "file")


def _flatten(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """`security.protocol` written without quotes is a table in TOML; here it is one name again."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _put_flat(gathered: Gathered, section: str, key: str, value: str, origin: str) -> None:
    if section not in SECTIONS:
        variable = origin.removeprefix("environment ")
        gathered.problems.append(f"{variable}: unknown section{values.did_you_mean(section, SECTIONS)}")
    elif section == "kafka":
        gathered.put("kafka", _kafka_key(key.lower()), value, origin)
    elif section == "routes":
        name, _, key = key.lower().rpartition("__")
        known = [found.removeprefix("routes.") for found in gathered.found if found.startswith("routes.")]
        # A variable's name has no case and no dot or dash: it means the file's route of that name where there is one.
        same = [candidate for candidate in known if _variable_name(candidate) == name]
        gathered.put(f"routes.{same[0] if same else name}", key, value, origin)
    else:
        gathered.put(section, key.lower(), value, origin)


def _variable_name(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _kafka_key(key: str) -> str:
    if key in _KAFKA_OWN:
        return key
    if key.endswith(_FILE_SUFFIX):
        return key.removesuffix(_FILE_SUFFIX).replace("_", ".") + _FILE_SUFFIX
    return key.replace("_", ".")


def parse_sections(gathered: Gathered) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments for `Settings`, and every problem met."""
    problems = list(gathered.problems)
    sections: dict[str, Any] = {
        name: _parse_section(name, kind, gathered.found.get(name, {}), problems)
        for name, kind in PLAIN_SECTIONS.items()
    }
    sections["relay"] = _with_slot(sections["relay"])
    sections["postgres"] = _patient(sections["postgres"], gathered.found.get("postgres", {}), sections["relay"])
    sections["outbox"] = _completed(sections["outbox"], gathered.found.get("outbox", {}), sections["relay"].name)
    sections["kafka"] = _parse_kafka(gathered.found.get("kafka", {}), problems)
    sections["routes"] = _parse_routes(gathered, sections["outbox"], problems)
    sections["console"] = MappingProxyType(
        {key: value for key, (value, _) in gathered.found.get("console", {}).items()}
    )
    return sections, problems


def _parsers(kind: type[Any]) -> dict[str, Callable[[object], Any]]:
    return {item.name: item.metadata["parse"] for item in dataclasses.fields(kind) if "parse" in item.metadata}


def _parse_section(section: str, kind: type[Any], found: Mapping[str, tuple[object, str]], problems: list[str]) -> Any:
    parsers = _parsers(kind)
    parsed: dict[str, Any] = {}
    for key, (value, origin) in found.items():
        if key not in parsers:
            problems.append(f"{_named(section, key, origin)}: unknown key{values.did_you_mean(key, parsers)}")
            continue
        try:
            parsed[key] = parsers[key](value)
        except values.BadValue as error:
            problems.append(f"{section}.{key}: {error}")
    return kind(**parsed)


def _named(section: str, key: str, origin: str) -> str:
    """What to look for: the key as the file has it, or the variable."""
    return origin.removeprefix("environment ") if origin.startswith("environment ") else f"{section}.{key}"


def _with_slot(relay: Relay) -> Relay:
    if relay.slot:
        return relay
    # PostgreSQL allows no dash in a slot's name.
    suffix = "" if relay.name == "dovetail" else "_" + relay.name.replace("-", "_")
    return dataclasses.replace(relay, slot="dovetail" + suffix)


def _patient(postgres: Postgres, given: Collection[str], relay: Relay) -> Postgres:
    """A connect that takes as long as the lease costs the lead; libpq takes no less than two seconds."""
    most = max(2, min(postgres.connect_timeout_seconds, math.ceil(relay.lease_seconds) - 1))
    return (
        postgres if "connect_timeout_seconds" in given else dataclasses.replace(postgres, connect_timeout_seconds=most)
    )


def _completed(outbox: Outbox, given: Collection[str], relay: str) -> Outbox:
    """The outbox with what follows from its table and from the relay's name, where nothing else was said."""
    follows: dict[str, Any] = {"source": f"/dovetail/{relay}"}
    if outbox.foreign:
        # The migrations make `dovetail` for our own table; another table needs a publication of its own.
        name = f"dovetail_{outbox.schema_and_table[1]}".encode()[:_MAX_IDENTIFIER_BYTES]
        follows |= {"publication": name.decode(errors="ignore"), "value": "passthrough"}
    return dataclasses.replace(outbox, **{key: value for key, value in follows.items() if key not in given})


def _parse_routes(gathered: Gathered, outbox: Outbox, problems: list[str]) -> Mapping[str, Route]:
    routes: dict[str, Route] = {}
    for section in sorted(found for found in gathered.found if found.startswith("routes.")):
        name = section.removeprefix("routes.")
        try:
            values.route_name(name)
        except values.BadValue as error:
            problems.append(f"{section}: {error}")
            continue
        route = _parse_section(section, Route, gathered.found[section], problems)
        aggregatetype = route.aggregatetype or name
        topic = route.topic
        if not topic:
            topic = outbox.topic.replace("{aggregatetype}", aggregatetype)
            if problem := values.topic_problem(topic):
                problems.append(f"{section}.topic: {problem}; say which topic is meant")
        value = route.value if "value" in gathered.found[section] else outbox.value
        routes[name] = dataclasses.replace(route, aggregatetype=aggregatetype, topic=topic, value=value)
    return MappingProxyType(routes)


def _parse_kafka(found: Mapping[str, tuple[object, str]], problems: list[str]) -> Kafka:
    own = {key: value for key, value in found.items() if key in _KAFKA_OWN}
    kafka: Kafka = _parse_section("kafka", Kafka, own, problems)
    properties: dict[str, str | Secret] = {}
    files: dict[str, Path] = {}
    for key, (value, origin) in found.items():
        if key in _KAFKA_OWN:
            continue
        name = key.removesuffix(_FILE_SUFFIX)
        if key != name and kafka_rules.is_secret(name):
            files[name] = Path(str(value)).expanduser()
        elif problem := kafka_rules.name_problem(key):
            problems.append(f"{_named('kafka', key, origin)}: {problem}")
        elif isinstance(value, bool):
            properties[key] = "true" if value else "false"
        elif not isinstance(value, (str, int, float)):
            problems.append(f"kafka.{key}: {values.shown(value)} is not a string, a number or true or false")
        else:
            properties[key] = Secret(str(value)) if kafka_rules.is_secret(key) else str(value)
    return dataclasses.replace(kafka, properties=MappingProxyType(properties), files=MappingProxyType(files))
