"""The rules between values: what one section says about another, and what is missing. Pure but for secret files."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from dovetail_relay.settings import dsn as dsns
from dovetail_relay.settings import kafka_rules, values
from dovetail_relay.settings.secret import BadSecretFile, Secret, read_secret_file
from dovetail_relay.settings.sections import Kafka, Outbox, Postgres, Route

# Topics of Dovetail's own: an event there would be taken for a checkpoint or a schema.
RESERVED_PREFIXES = ("dovetail.checkpoint.", "dovetail.schemas", "__")

_LOCAL = 'dovetail local up; eval "$(dovetail local env)"'


def reserved_topic(topic: str) -> bool:
    """Whether no event may ever go there."""
    return topic.startswith(RESERVED_PREFIXES)


def default_allowed(outbox: Outbox, routes: Mapping[str, Route]) -> tuple[str, ...]:
    """The allow-list where none is given: the template with any aggregate type, and the routes' topics."""
    glob = outbox.topic.replace("{aggregatetype}", "*")
    # A template without any text of its own would allow every topic of the cluster.
    template = () if glob == "*" else (glob,)
    return template + tuple(sorted({route.topic for route in routes.values()}))


def validate(
    *,
    postgres: Postgres,
    kafka: Kafka,
    outbox: Outbox,
    routes: Mapping[str, Route],
    environ: Mapping[str, str],
    needs: Collection[str],
    broken: Collection[str],
    lease_seconds: float,
) -> list[str]:
    """Every problem as `dotted.path: sentence`. `broken` are paths that already have one."""
    found = [
        *_postgres(postgres, environ),
        *_lease(postgres, lease_seconds),
        *_kafka(kafka),
        *_topics(kafka, outbox, routes),
    ]
    problems = [f"{path}: {text}" for path, text in found if path not in broken]
    given: dict[str, object] = {
        "postgres.dsn": postgres.dsn or postgres.dsn_file,
        "postgres.owner_dsn": postgres.owner_dsn,
        "postgres.operator_dsn": postgres.operator_dsn,
        "kafka.bootstrap_servers": kafka.bootstrap_servers,
    }
    missing = [
        either[0]
        for either in (need.split("|") for need in needs)
        if not any(given[path] or path in broken for path in either)
    ]
    if missing:
        # One line, however many there are: whoever configures nothing has made one mistake.
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        variables = " and ".join("DOVETAIL_" + path.replace(".", "__").upper() for path in missing)
        problems.append(
            f"{', '.join(missing)}: {are} not set; set {them} in the file or in {variables}, "
            f"or for local servers: {_LOCAL}"
        )
    return problems


def _postgres(postgres: Postgres, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if postgres.dsn and postgres.dsn_file:
        yield "postgres.dsn_file", "is set together with postgres.dsn; give one of them"
    dsns_given: dict[str, Secret | None] = {
        "postgres.dsn": postgres.dsn,
        "postgres.owner_dsn": postgres.owner_dsn,
        "postgres.operator_dsn": postgres.operator_dsn,
        "postgres.app_dsn": postgres.app_dsn,
    }
    for path, file in (("postgres.dsn_file", postgres.dsn_file), ("postgres.password_file", postgres.password_file)):
        if file is None:
            continue
        try:
            secret = read_secret_file(file)
        except BadSecretFile as error:
            yield path, str(error)
        else:
            if path == "postgres.dsn_file":
                dsns_given[path] = secret
    for path, dsn in dsns_given.items():
        if dsn is None:
            continue
        try:
            parts = dsns.parse(dsn)
        except dsns.BadDsn as error:
            yield path, str(error)
        else:
            if problem := dsns.tls_problem(parts, environ, insecure=postgres.insecure):
                yield path, problem


def _lease(postgres: Postgres, lease_seconds: float) -> Iterator[tuple[str, str]]:
    timeout = postgres.connect_timeout_seconds
    # Two seconds are libpq's least, whatever the lease.
    if timeout > 2 and timeout >= lease_seconds:
        yield (
            "postgres.connect_timeout_seconds",
            f"{timeout} is not below relay.lease_seconds, {lease_seconds:g}: one dead address would cost the lead",
        )


def _kafka(kafka: Kafka) -> Iterator[tuple[str, str]]:
    for name, file in kafka.files.items():
        try:
            read_secret_file(file)
        except BadSecretFile as error:
            yield f"kafka.{name}_file", str(error)
        if name in kafka.properties:
            yield f"kafka.{name}_file", f"is set together with kafka.{name}; give one of them"
    yield from _kafka_files(kafka)
    found = kafka_rules.property_problems(kafka.properties, kafka.bootstrap_servers, insecure=kafka.insecure)
    for name, problem in found:
        yield f"kafka.{name}", problem


def _kafka_files(kafka: Kafka) -> Iterator[tuple[str, str]]:
    if "ssl" not in str(kafka.properties.get("security.protocol", "")).lower():
        return  # then nobody opens them
    for name in kafka_rules.FILES:
        given = str(kafka.properties.get(name, "probe"))
        # The library's own word for wherever the system keeps its authorities.
        if given != "probe" and not Path(given).exists():
            yield f"kafka.{name}", f"there is no file {values.shown(given)}"


def _topics(kafka: Kafka, outbox: Outbox, routes: Mapping[str, Route]) -> Iterator[tuple[str, str]]:
    allowed = kafka.allowed_topics if kafka.allowed_topics is not None else default_allowed(outbox, routes)
    if not allowed:
        yield "kafka.allowed_topics", f"is not set and nothing follows from outbox.topic {values.shown(outbox.topic)}"
    if reserved_topic(outbox.topic):
        yield "outbox.topic", f"{values.shown(outbox.topic)} lies among Dovetail's or Kafka's own topics"
    seen: dict[str, str] = {}
    shared: dict[str, str] = {}
    for name, route in routes.items():
        path = f"routes.{name}.topic"
        if reserved_topic(route.topic):
            yield path, f"{values.shown(route.topic)} is one of Dovetail's or Kafka's own topics"
        elif not any(fnmatch.fnmatchcase(route.topic, glob) for glob in allowed):
            near = values.did_you_mean(route.topic, allowed)
            yield path, f"TopicNotAllowed: {values.shown(route.topic)} is not in kafka.allowed_topics{near}"
        if route.aggregatetype in seen:
            yield f"routes.{name}.aggregatetype", f"is the same as that of routes.{seen[route.aggregatetype]}"
        seen.setdefault(route.aggregatetype, name)
        first = shared.setdefault(route.topic, name)
        if route.partitions != routes[first].partitions:
            other = f"{routes[first].partitions} by routes.{first}"
            said = f"{route.partitions} for topic {route.topic}, and {other}; a topic has one number: say the same"
            yield f"routes.{name}.partitions", said
