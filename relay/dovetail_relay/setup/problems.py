"""The named ways in which a set-up does not go on. All of them are `Misconfigured`: only an operator can help."""

from __future__ import annotations

from dovetail_relay.errors import Misconfigured


class MigrationChanged(Misconfigured):
    """A migration that was applied has another checksum in this program."""

    name = "MIGRATION_CHANGED"
    default_remedy = "install the release that was used before, or compare the two files"


class SlotWithoutRow(Misconfigured):
    """The slot exists, but nobody wrote down where it began."""

    name = "SLOT_WITHOUT_RELAY_ROW"


class PermissionMissing(Misconfigured):
    """A role or a principal may not do what the step needs."""

    name = "PERMISSION_MISSING"
    default_remedy = "dovetail init --print-sql"


class LoginRefused(Misconfigured):
    """The server is there, but does not let this role in."""

    name = "LOGIN_REFUSED"


class PoolerBetween(Misconfigured):
    """The DSN leads through a connection pooler, which cannot replicate and moves sessions about."""

    name = "POOLER_BETWEEN"
    default_remedy = "set postgres.dsn to the server itself"


class TlsFailed(Misconfigured):
    """The server's certificate was not accepted."""

    name = "TLS_FAILED"


class InitRunning(Misconfigured):
    """Somebody else is applying migrations to this database."""

    name = "INIT_RUNNING"
    default_remedy = "dovetail init, once the other one is through"


class WalLevel(Misconfigured):
    """The server does not write what logical decoding reads."""

    name = "WAL_LEVEL"
    default_remedy = "ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL"


class TopicRefused(Misconfigured):
    """Kafka refused to make a topic, or the topic that is there does not fit."""

    name = "TOPIC_REFUSED"
    default_remedy = "dovetail init --print-kafka"
