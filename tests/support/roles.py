"""The stack's logins in Dovetail's groups, without the rest of `dovetail init`."""

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dovetail_local.endpoints import Endpoints


def admit_logins(endpoints: Endpoints) -> None:
    """Let the relay's and the operator's login in, as `init` does."""
    with psycopg.connect(endpoints.owner_dsn) as connection:
        for group, dsn in (("dovetail_relay", endpoints.relay_dsn), ("dovetail_operator", endpoints.operator_dsn)):
            login = str(conninfo_to_dict(dsn)["user"])
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(login)))
