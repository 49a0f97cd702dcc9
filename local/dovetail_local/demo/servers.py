"""Where the demo runs: on servers of its own that go when it goes, or beside others on servers that are there already.

On its own servers everything has Dovetail's default names. On existing ones the demo makes a database, topics and a
relay of its own names, and takes them away again.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dovetail import environment
from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE, Endpoints
from dovetail_local.errors import LocalError, NothingToDo, Unreachable
from dovetail_local.maven import Say
from dovetail_local.recipe import external_endpoints
from dovetail_local.stack import Stack, temporary_folder

# What `relay.name` is when nobody sets it.
_DEFAULT_NAME = "dovetail"
_ANSWER_SECONDS = 10.0
_SUPERUSER_VARIABLE = "DOVETAIL_POSTGRES__SUPERUSER_DSN"
_ROLES = ("owner_dsn", "relay_dsn", "operator_dsn", "app_dsn", "superuser_dsn")


@dataclass(frozen=True, slots=True)
class Place:
    """Servers, names on them, and a folder for configuration and logs."""

    endpoints: Endpoints
    folder: Path
    relay: str
    topic: str
    # The consumer group, and the name in the inbox.
    consumer: str
    # None on existing servers.
    stack: Stack | None

    @property
    def config(self) -> Path:
        """The configuration that every process of the demo is started with."""
        return self.folder / "dovetail.toml"

    def environment(self) -> dict[str, str]:
        """This process's environment with the addresses, and without settings that are not about the servers."""
        servers = ("DOVETAIL_POSTGRES__", "DOVETAIL_KAFKA__")
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("DOVETAIL_") or (name.startswith(servers) and name != _SUPERUSER_VARIABLE)
        }
        return own | self.endpoints.environment()

    def kafka(self) -> dict[str, str]:
        """What a Kafka client needs to connect."""
        return environment.kafka(self.environment())


@contextlib.contextmanager
def open_place(say: Say, *, keep: bool = False) -> Iterator[Place]:
    """Give a place for the time of the body. Afterwards nothing is left, unless `keep` asks for it."""
    missing = frozenset(
        part
        for part, variable in (("postgres", POSTGRES_VARIABLE), ("kafka", KAFKA_VARIABLE))
        if not os.environ.get(variable)
    )
    with contextlib.ExitStack() as opened:
        home = temporary_folder()
        opened.callback(shutil.rmtree, home, ignore_errors=True)
        stack = None
        endpoints = _existing_servers()
        if "kafka" not in missing:
            _kafka_answers()
        if missing:
            say(f"starting {' and '.join(sorted(missing))}")
            stack = Stack(home, durable=False, temporary=not keep, parts=missing, say=say)
            opened.callback(_stop, stack)
            endpoints = stack.up(attached=True)
        name = _DEFAULT_NAME if missing == {"postgres", "kafka"} else f"demo_{secrets.token_hex(4)}"
        if "postgres" not in missing:
            endpoints = opened.enter_context(_own_database(endpoints, name))
        # Inside of the servers' folder, which goes with them even where this process is killed.
        place = _place(endpoints, home / "demo", name, stack)
        place.folder.mkdir(mode=0o700)
        if "kafka" not in missing:
            opened.callback(_leave_kafka, place)
        _write_config(place)
        yield place
        if keep:
            opened.pop_all()
            if stack is not None:
                stack.detach()


def _existing_servers() -> Endpoints:
    found = external_endpoints(os.environ.get(KAFKA_VARIABLE, ""))
    # Where no superuser is known, the owner is next to be able to make a database.
    return found if os.environ.get(_SUPERUSER_VARIABLE) else replace(found, superuser_dsn=found.owner_dsn)


def _place(endpoints: Endpoints, folder: Path, name: str, stack: Stack | None) -> Place:
    if name == _DEFAULT_NAME:
        return Place(endpoints, folder, name, "outbox.event.order", "shipping", stack)
    return Place(endpoints, folder, name, f"{name}.order", f"{name}.shipping", stack)


def _write_config(place: Place) -> None:
    place.config.write_text(
        f'[relay]\nname = "{place.relay}"\nhttp_port = 0\n\n[routes.order]\ntopic = "{place.topic}"\npartitions = 6\n'
    )


def _stop(stack: Stack) -> None:
    with contextlib.suppress(NothingToDo):
        stack.down(delete=True)


@contextlib.contextmanager
def _own_database(endpoints: Endpoints, name: str) -> Iterator[Endpoints]:
    owner = conninfo_to_dict(endpoints.owner_dsn).get("user")
    create = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(str(owner)))
    with psycopg.connect(endpoints.superuser_dsn, autocommit=True) as connection:
        try:
            connection.execute(create)
        except psycopg.errors.InsufficientPrivilege as error:
            raise LocalError(
                f"the role {connection.info.user} may not create a database: ALTER ROLE {connection.info.user} "
                f"CREATEDB, or unset {POSTGRES_VARIABLE} and the demo starts a server of its own"
            ) from error
    moved: Mapping[str, Any] = {role: make_conninfo(getattr(endpoints, role), dbname=name) for role in _ROLES}
    try:
        yield replace(endpoints, **moved)
    finally:
        with psycopg.connect(endpoints.superuser_dsn, autocommit=True) as connection:
            _drop(connection, name)


def _drop(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop the database, with the slot in it that would keep it."""
    slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
    for slot, active in connection.execute(slots, [name]).fetchall():
        if active is not None:
            # pg_terminate_backend with a timeout waits until the process is gone.
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [active])
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _kafka_answers() -> None:
    """Raise where Kafka does not, before anything is made that would have to be taken away."""
    try:
        AdminClient({**environment.kafka(), "log_level": 0}).list_topics(timeout=_ANSWER_SECONDS)
    except KafkaException as error:
        raise Unreachable(f"Kafka at {os.environ[KAFKA_VARIABLE]} does not answer: {error.args[0].str()}") from error


def _leave_kafka(place: Place) -> None:
    client = AdminClient({**place.kafka(), "log_level": 0})
    topics = [place.topic, f"dovetail.checkpoint.{place.relay}"]
    for done in (
        *client.delete_topics(topics, request_timeout=_ANSWER_SECONDS).values(),
        *client.delete_consumer_groups([place.consumer], request_timeout=_ANSWER_SECONDS).values(),
    ):
        with contextlib.suppress(Exception):  # not made yet, or not ours to delete: nothing depends on it
            done.result(_ANSWER_SECONDS)
