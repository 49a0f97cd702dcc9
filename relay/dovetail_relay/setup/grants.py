"""Group roles for login roles: `GRANT dovetail_app TO shop`. The right to replicate is looked at, never handed out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict

from dovetail_relay.config import Role, Settings, conninfo
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup.connect import one
from dovetail_relay.setup.problems import PermissionMissing
from dovetail_relay.setup.steps import Step
from dovetail_schemas.sql import queries

GROUPS: Mapping[Role, str] = {"app": "dovetail_app", "relay": "dovetail_relay", "operator": "dovetail_operator"}


@dataclass(frozen=True, slots=True)
class Logins:
    """Login roles by what they are for; None where nobody said and no DSN tells."""

    app: str | None = None
    relay: str | None = None
    operator: str | None = None

    def named(self) -> dict[Role, str]:
        """Those that are known."""
        pairs: dict[Role, str | None] = {"app": self.app, "relay": self.relay, "operator": self.operator}
        return {role: login for role, login in pairs.items() if login}


def logins(settings: Settings, given: Logins) -> Logins:
    """What was given, filled up with the users of the DSNs."""
    pg = settings.postgres
    return Logins(
        app=given.app or (_user(settings, "app") if pg.app_dsn else None),
        relay=given.relay or (_user(settings, "relay") if pg.dsn or pg.dsn_file else None),
        operator=given.operator or (_user(settings, "operator") if pg.operator_dsn else None),
    )


def _user(settings: Settings, role: Role) -> str | None:
    user = conninfo_to_dict(conninfo(settings, role)).get("user") or os.environ.get("PGUSER")
    if user:
        return str(user)
    # What libpq itself would take: the name of the operating system's user.
    defaults = (option.val for option in pq.Conninfo.get_defaults() if option.keyword == b"user")
    return next((value.decode() for value in defaults if value), None)


def grant(connection: psycopg.Connection[Any], found: Logins, *, change: bool) -> Iterator[Step]:
    """Make each login role a member of its group. The owner and superusers need none. Needs the owner's session."""
    owner = connection.info.user
    for role, login in found.named().items():
        group = GROUPS[role]
        row = one(connection, queries["setup_role"], {"login": login, "group": group})
        what = f"role {login} in {group}"
        if row is None:
            raise Misconfigured(f"role {login!r} does not exist", remedy=f'CREATE ROLE "{login}" LOGIN')
        if row["member"]:
            yield Step(what, "there")
        elif row["rolsuper"] or login == owner:
            yield Step(what, "left", "a superuser needs none" if row["rolsuper"] else "it owns the tables")
        elif change:
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(login)))
            yield Step(what, "done")
        else:
            yield Step(what, "missing")


def publishing(connection: psycopg.Connection[Any], settings: Settings, *, change: bool) -> Iterator[Step]:
    """Let services publish into Dovetail's own outbox, where this relay reads it. Needs the owner's session.

    Where it reads another table nothing is granted, so that `dovetail.publish` fails instead of writing an event that
    nobody reads. What the init of another relay has granted stays.
    """
    if settings.outbox.foreign:
        return
    lacking = (one(connection, queries["setup_publishing"]) or {})["lacking"]
    what = f"{GROUPS['app']} may insert into dovetail.outbox"
    if not lacking:
        yield Step(what, "there")
        return
    if change:
        connection.execute(publishing_sql(lacking))
    yield Step(what, "done" if change else "missing")


def publishing_sql(columns: Iterable[str]) -> sql.Composed:
    """The statement that lets services publish."""
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("GRANT INSERT ({}) ON dovetail.outbox TO {}").format(listed, sql.Identifier(GROUPS["app"]))


def replication(connection: psycopg.Connection[Any], login: str) -> Step:
    """Whether the relay's login role may replicate. Raises PermissionMissing with what a superuser has to type.

    It is not granted here: with it a role can copy the whole cluster, so a person decides.
    """
    row = one(connection, queries["setup_role"], {"login": login, "group": GROUPS["relay"]})
    if row is None:
        raise Misconfigured(f"role {login!r} does not exist", remedy=f'CREATE ROLE "{login}" LOGIN REPLICATION')
    if row["rolsuper"] or row["rolreplication"] or row["managed_replication"]:
        return Step(f"role {login} may replicate", "there")
    raise PermissionMissing(
        f"role {login!r} lacks REPLICATION, which is never inherited from a group",
        remedy=f'ALTER ROLE "{login}" REPLICATION (on RDS: GRANT rds_replication TO "{login}")',
    )
