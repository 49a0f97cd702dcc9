"""Does a server answer? And what a fresh PostgreSQL needs before anybody else may see it."""

import logging
from collections.abc import Mapping
from typing import LiteralString

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from dovetail_local.errors import Unreachable
from dovetail_local.ports import LOOPBACK, accepts
from dovetail_local.postgres import SUPERUSER

DATABASE = "dovetail"
# Attributes of the login roles. None is a superuser; what they may do, the migrations grant.
_ROLES: Mapping[str, LiteralString] = {
    "owner": "CREATEROLE CREATEDB",
    "app": "",
    "relay": "REPLICATION",
    "operator": "",
}
ROLES = tuple(_ROLES)
_CONNECT_SECONDS = 5
_METADATA_SECONDS = 5.0

_SILENT = logging.getLogger("dovetail_local.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def dsn(user: str, password: str, port: int, database: str = DATABASE) -> str:
    """Write a connection string; the passwords made here need no quoting."""
    return f"postgresql://{user}:{password}@{LOOPBACK}:{port}/{database}"


def postgres_answers(port: int, password: str) -> bool:
    """Tell whether PostgreSQL accepts connections."""
    if not accepts(port):
        return False
    try:
        psycopg.connect(dsn(SUPERUSER, password, port, "postgres"), connect_timeout=_CONNECT_SECONDS).close()
    except psycopg.OperationalError:
        return False
    return True


def create_roles_and_database(port: int, passwords: Mapping[str, str]) -> None:
    """Create what is missing of the roles and the database; legal to repeat after an interruption."""
    try:
        _create(port, passwords)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise Unreachable(f"PostgreSQL on port {port} cannot be set up ({reason}): see its log") from error


def _create(port: int, passwords: Mapping[str, str]) -> None:
    target = dsn(SUPERUSER, passwords[SUPERUSER], port, "postgres")
    with psycopg.connect(target, autocommit=True, connect_timeout=_CONNECT_SECONDS) as connection:
        known = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        for role, attributes in _ROLES.items():
            if role not in known:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(
                        sql.Identifier(role), sql.SQL(attributes), sql.Literal(passwords[role])
                    )
                )
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier("owner"))
            )


def broker_answers(port: int, node: int) -> bool:
    """Tell whether a broker answers a request for metadata, and counts itself among the brokers."""
    if not accepts(port):
        return False
    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0}
    try:
        client = AdminClient(settings, logger=_SILENT)
        return node in client.list_topics(timeout=_METADATA_SECONDS).brokers
    except KafkaException:
        return False
