"""One settings model: file, then environment, then flags; frozen once it is put together.

    settings = load(path=None, environ=os.environ, overrides={"relay.name": "shop"})

The file is `dovetail.toml` in the working directory, or what `--config` / `DOVETAIL_CONFIG` names. The environment's
names are `DOVETAIL_<SECTION>__<KEY>` (`DOVETAIL_KAFKA__SECURITY_PROTOCOL` is `"security.protocol"` of `[kafka]`,
`DOVETAIL_ROUTES__ORDER__TOPIC` is `topic` of `[routes.order]`). Flags come as a mapping of dotted paths to strings.
All problems are collected and raised at once as `ConfigInvalid`, each with its dotted path and the nearest known name.

Standard library and psycopg's conninfo parser only: the relay process loads this, so it must stay light.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dovetail_relay.errors import ConfigInvalid
from dovetail_relay.nouns import dead_letter_topic
from dovetail_relay.settings import dsn as _dsn
from dovetail_relay.settings import gather as _gather
from dovetail_relay.settings import validate as _validate
from dovetail_relay.settings.secret import HIDDEN, BadSecretFile, Secret, read_secret_file
from dovetail_relay.settings.sections import (
    DeliverySection,
    Kafka,
    Log,
    Outbox,
    Postgres,
    Registry,
    Relay,
    Route,
    empty,
)
from dovetail_relay.settings.values import BadValue, one_line, split_qualified

__all__ = [
    "BadSecretFile", "BadValue", "DeliverySection", "Kafka", "Log", "Outbox", "Postgres", "Registry", "Relay", "Role",
    "Route", "Secret", "Settings", "conninfo", "effective", "kafka_properties", "load", "redacted_conninfo", "scrubbed",
    "split_qualified",
]  # fmt: skip

Role = Literal["relay", "owner", "operator", "app"]

CHECKPOINT_PREFIX = "dovetail.checkpoint."

_SHOWN_SECTIONS = ("postgres", "kafka", "outbox", "registry", "delivery", "relay", "log")
_KAFKA_OWN = ("bootstrap_servers", "insecure", "allowed_topics")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a Dovetail process is told. Frozen; secrets inside do not print."""

    postgres: Postgres = field(default_factory=Postgres)
    kafka: Kafka = field(default_factory=Kafka)
    outbox: Outbox = field(default_factory=Outbox)
    routes: Mapping[str, Route] = field(default_factory=empty)
    registry: Registry = field(default_factory=Registry)
    delivery: DeliverySection = field(default_factory=DeliverySection)
    relay: Relay = field(default_factory=Relay)
    log: Log = field(default_factory=Log)
    # Accepted and kept for the console's own process; nobody here knows which of its keys are secret.
    console: Mapping[str, Any] = field(default_factory=empty, repr=False)
    # dotted path -> "file", "environment DOVETAIL_…" or "flag"; absent means default
    origins: Mapping[str, str] = field(default_factory=empty, compare=False, repr=False)

    @property
    def checkpoint_topic(self) -> str:
        """The compacted topic of this relay alone."""
        return CHECKPOINT_PREFIX + self.relay.name

    @property
    def allowed_topics(self) -> tuple[str, ...]:
        """Globs of the topics that events may go to; the checkpoint topic and Kafka's own are never among them."""
        if self.kafka.allowed_topics is not None:
            return self.kafka.allowed_topics
        return _validate.default_allowed(self.outbox, self.routes)

    def topics(self) -> tuple[str, ...]:
        """The routes' topics, sorted, each once."""
        return tuple(sorted({route.topic for route in self.routes.values()}))

    def dead_letter_topics(self) -> tuple[str, ...]:
        """The topics of the routes that skip what is stuck, sorted, each once."""
        return tuple(sorted({dead_letter_topic(r.topic) for r in self.routes.values() if r.on_stuck == "skip"}))

    def topic_allowed(self, topic: str) -> bool:
        """Whether an event may go to this topic."""
        if _validate.reserved_topic(topic):
            return False
        return any(fnmatch.fnmatchcase(topic, glob) for glob in self.allowed_topics)


def load(
    path: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    needs: Collection[str] = ("postgres.dsn", "kafka.bootstrap_servers"),
) -> Settings:
    """Put the configuration together and check it.

    `needs` names the keys that must be there (`postgres.dsn` also takes `postgres.dsn_file`; `a|b` is either of
    them). Raises `ConfigInvalid` with every problem at once; never anything else for what a file, a variable or a flag
    may contain.
    """
    environ = os.environ if environ is None else environ
    gathered = _gather.gather(path, environ, overrides or {})
    sections, problems = _gather.parse_sections(gathered)
    settings = Settings(**sections, origins=gathered.origins())
    problems += _validate.validate(
        postgres=settings.postgres,
        kafka=settings.kafka,
        outbox=settings.outbox,
        routes=settings.routes,
        environ=environ,
        # Nobody can say what is missing where the file that may have it was not read.
        needs=() if gathered.unread else needs,
        lease_seconds=settings.relay.lease_seconds,
        broken={problem.split(":", 1)[0] for problem in problems},
    )
    if problems:
        raise ConfigInvalid([one_line(problem) for problem in problems])
    return settings


def conninfo(settings: Settings, which: Role = "relay", environ: Mapping[str, str] | None = None) -> str:
    """The conninfo to connect with as one of the four roles; it contains the password, so it is never shown.

    Secret files are read now: call it again before each connect and a rotated password is picked up. Raises
    `ConfigInvalid` when that role has no DSN or its file cannot be read.
    """
    environ = os.environ if environ is None else environ
    pg = settings.postgres
    password = None
    try:
        if which == "relay":
            if pg.dsn_file is not None:
                parts = _dsn.read_dsn_file(pg.dsn_file, read_secret_file(pg.dsn_file))
            else:
                parts = _dsn.parse(_required(pg.dsn, "postgres.dsn"))
            if pg.password_file is not None:
                password = read_secret_file(pg.password_file)
        else:
            given = {"owner": pg.owner_dsn, "operator": pg.operator_dsn, "app": pg.app_dsn}[which]
            parts = _dsn.parse(_required(given, f"postgres.{which}_dsn"))
    except (BadSecretFile, _dsn.BadDsn) as error:
        raise ConfigInvalid([f"postgres: {error}"]) from None
    return _dsn.complete(
        parts,
        environ,
        application_name=f"dovetail-{which}-{settings.relay.name}",
        connect_timeout_seconds=pg.connect_timeout_seconds,
        insecure=pg.insecure,
        password=password,
    )


def redacted_conninfo(text: str) -> str:
    """A conninfo as it may be shown: every password is `***`."""
    return _dsn.redacted(text)


def scrubbed(message: object) -> str:
    """A driver's or server's message in one line, without passwords."""
    return _dsn.scrubbed(str(message))


def kafka_properties(settings: Settings) -> dict[str, str]:
    """The librdkafka properties that every client gets: brokers, TLS, SASL and what passes through.

    Contains secrets in clear; for client constructors only. Secret files are read now. Raises `ConfigInvalid` when one
    cannot be read.
    """
    found = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in settings.kafka.properties.items()
    }
    for name, file in settings.kafka.files.items():
        try:
            found[name] = read_secret_file(file).reveal()
        except BadSecretFile as error:
            raise ConfigInvalid([f"kafka.{name}_file: {error}"]) from None
    found["bootstrap.servers"] = settings.kafka.bootstrap_servers
    return found


def _required(given: Secret | None, path: str) -> Secret:
    if given is None:
        variable = "DOVETAIL_" + path.replace(".", "__").upper()
        raise ConfigInvalid([f"{path}: is not set; set it in the file or in {variable}"])
    return given


def effective(settings: Settings) -> list[dict[str, Any]]:
    """`{"key", "value", "from"}` for each key, also those at their default. Contains no secret."""
    return [
        {"key": key, "value": value, "from": settings.origins.get(key, "default")} for key, value in _pairs(settings)
    ]


def _pairs(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in _SHOWN_SECTIONS:
        values = getattr(settings, section)
        names = _KAFKA_OWN if section == "kafka" else [item.name for item in dataclasses.fields(values)]
        for name in names:
            key = f"{section}.{name}"
            yield (
                key,
                list(settings.allowed_topics) if key == "kafka.allowed_topics" else _plain(key, getattr(values, name)),
            )
        if section == "kafka":
            for name, value in sorted(values.properties.items()):
                yield f"kafka.{name}", _plain(name, value)
            for name, path in sorted(values.files.items()):
                yield f"kafka.{name}_file", str(path)
    for route, keys in settings.routes.items():
        for item in dataclasses.fields(keys):
            yield f"routes.{route}.{item.name}", getattr(keys, item.name)
    # The console's keys are its own; nobody here knows which of them are secret.
    for name in sorted(settings.console):
        yield f"console.{name}", HIDDEN


def _plain(key: str, value: object) -> Any:
    if isinstance(value, Secret):
        return _dsn.redacted(value.reveal()) if key.endswith("dsn") else HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
