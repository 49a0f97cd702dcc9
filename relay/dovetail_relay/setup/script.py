"""What administrators run by hand: SQL for psql (or any client), and commands for Kafka's own tools.

Nothing is changed here. The slot is not in the script: it is made by `dovetail init` as the relay's own role, because
only that keeps the snapshot of the moment at which the slot begins.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from psycopg import sql

from dovetail_relay.config import Settings
from dovetail_relay.decode.pgoutput import FIELDS
from dovetail_relay.setup.grants import GROUPS, Logins, logins, publishing_sql
from dovetail_relay.setup.topics import wanted_topics
from dovetail_schemas.sql import Migration, migrations

# What the scripts assume of a cluster that they do not ask.
_ASSUMED_BROKERS = 3
_LAST = "\n-- Then, as the relay's role, for the slot and the topics: dovetail init"


def sql_script(settings: Settings, given: Logins, todo: Iterable[Migration] | None = None) -> str:
    """The whole set-up of the database as one script. `todo`: the migrations still to be applied; None means all."""
    lines = _sql_lines(settings, logins(settings, given), migrations() if todo is None else todo)
    return "\n".join([*lines, *_publication_lines(settings), _LAST]) + "\n"


def _sql_lines(settings: Settings, found: Logins, todo: Iterable[Migration]) -> Iterator[str]:
    yield "-- Dovetail: run this as the owner of the database; the lines with ALTER ROLE need a superuser."
    yield "-- The server needs wal_level = logical: ALTER SYSTEM SET wal_level = 'logical'; then a restart."
    for migration in todo:
        yield f"\n-- migration {migration.version:04d} {migration.name} ({migration.phase})\nBEGIN;"
        yield migration.sql.strip()
        yield (
            sql.SQL("INSERT INTO dovetail.migration (version, name, checksum) VALUES ({}, {}, {});\nCOMMIT;")
            .format(migration.version, migration.name, migration.checksum)
            .as_string()
        )
    yield "\n-- roles"
    for role, login in found.named().items():
        names = sql.Identifier(GROUPS[role]), sql.Identifier(login)
        yield sql.SQL("GRANT {} TO {};").format(*names).as_string()
    if not settings.outbox.foreign:
        yield publishing_sql(FIELDS).as_string() + ";"
    if found.relay:
        yield sql.SQL("ALTER ROLE {} REPLICATION;").format(sql.Identifier(found.relay)).as_string()


def _publication_lines(settings: Settings) -> Iterator[str]:
    """For a table that is not ours; the migrations make the publication of our own."""
    if settings.outbox.foreign:
        yield "\n-- publication"
        yield (
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true);")
            .format(sql.Identifier(settings.outbox.publication), sql.Identifier(*settings.outbox.schema_and_table))
            .as_string()
        )


def kafka_script(settings: Settings, principal: str | None = None) -> str:
    """Commands for kafka-topics and kafka-acls that make the topics and give the relay's principal what it needs."""
    return "\n".join(_kafka_lines(settings, principal or _principal(settings))) + "\n"


def _principal(settings: Settings) -> str:
    user = settings.kafka.properties.get("sasl.username")
    return f"User:{user}" if isinstance(user, str) else "User:dovetail"


def _kafka_lines(settings: Settings, principal: str) -> Iterator[str]:
    servers = ["--bootstrap-server", settings.kafka.bootstrap_servers or "localhost:9092"]
    yield "# Dovetail: run this with an administrator's --command-config."
    for topic in wanted_topics(settings, _ASSUMED_BROKERS):
        words = ["kafka-topics.sh", *servers, "--create", "--if-not-exists", "--topic", topic.name]
        words += ["--partitions", str(topic.partitions), "--replication-factor", str(topic.replication_factor)]
        for key, value in topic.config.items():
            words += ["--config", f"{key}={value}"]
        yield shlex.join(words)
    acl = ["kafka-acls.sh", *servers, "--add", "--allow-principal", principal]
    checkpoint = ["--topic", settings.checkpoint_topic]
    yield shlex.join([*acl, *_operations("Read", "Write", "Describe", "DescribeConfigs"), *checkpoint])
    for pattern, name in _event_topics(settings):
        kind = ["--resource-pattern-type", "prefixed"] if pattern else []
        # Read as well: recovery reads back what was published already.
        yield shlex.join([*acl, *_operations("Read", "Write", "Describe", "DescribeConfigs"), "--topic", name, *kind])
    yield "# The id ends in a hash of system id, database and slot: dovetail. is the prefix of all of them."
    transactional = ["--transactional-id", "dovetail.", "--resource-pattern-type", "prefixed"]
    yield shlex.join([*acl, *_operations("Write", "Describe"), *transactional])
    yield shlex.join([*acl, *_operations("DescribeConfigs"), "--cluster"])


def _operations(*names: str) -> list[str]:
    return [word for name in names for word in ("--operation", name)]


def _event_topics(settings: Settings) -> list[tuple[bool, str]]:
    """(is a prefix, name) for what events may go to; a glob that is no prefix is given up to its first wildcard."""
    found: dict[str, bool] = dict.fromkeys(settings.topics(), False)
    for glob in settings.allowed_topics:
        fixed = glob.split("*")[0].split("?")[0].split("[")[0]
        if fixed == glob:
            found.setdefault(glob, False)
        elif fixed:
            found[fixed] = True
    return sorted((is_prefix, name) for name, is_prefix in found.items())
