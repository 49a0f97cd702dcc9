"""In which encodings of a database Dovetail can write what it has to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import psycopg

from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup.checks_server import Server
from dovetail_relay.setup.connect import one
from dovetail_relay.setup.findings import Finding, judge
from dovetail_schemas.sql import queries

# Those that have the characters of the migrations and of the reasons that a row is parked with ("…", "µ"), and the one
# that takes any byte. In another one the relay would stop at the first row that it has to park.
_ABLE: Final = frozenset({"UTF8", "SQL_ASCII", *(f"WIN{page}" for page in range(1250, 1259))})
_MOVE: Final = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and pg_dump into it"


def encoding_problem(encoding: str, settings: Settings) -> str | None:
    """Why a relay of these settings cannot work in a database of this encoding; None where it can."""
    if encoding == "UTF8":
        return None
    if settings.outbox.messages:
        return (
            f"the database is in {encoding}, where a logical message, which is UTF-8, cannot be parked; allowed: UTF8"
        )
    if encoding not in _ABLE:
        return (
            f"the database is in {encoding}, which lacks characters that Dovetail writes; allowed: UTF8, WIN1250-1258"
        )
    return None


def refuse_encoding(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """Raises Misconfigured in a database where the relay could not work."""
    encoding = (one(connection, queries["setup_session"]) or {})["encoding"]
    if problem := encoding_problem(encoding, settings):
        raise Misconfigured(problem, remedy=_remedy(encoding, settings))


def encoding(server: Server) -> Iterator[Finding]:
    """UTF8, or what follows from another one: rows are converted by the server, messages are not."""
    found = server.facts["encoding"]
    problem = encoding_problem(found, server.settings)
    yield judge(
        "postgres.encoding",
        good=found == "UTF8",
        found=problem or found,
        wanted="UTF8: any other refuses text that it has no characters for, or (SQL_ASCII) checks none",
        remedy=_remedy(found, server.settings),
        otherwise="fail" if problem else "warn",
    )


def _remedy(encoding: str, settings: Settings) -> str:
    return f"outbox.messages = false, or {_MOVE}" if settings.outbox.messages and encoding in _ABLE else _MOVE
