"""Where a reader gets schemas from: the database's `event_schema`, or a registry over HTTP.

A schema never changes, so it is kept for ever; that one is unknown is believed for a few seconds only, since the
registration may be about to commit, or the server about to come back.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import psycopg

from dovetail_relay.config import Settings, scrubbed
from dovetail_relay.errors import ConfigInvalid, RelayError, ServerUnreachable
from dovetail_relay.observe.database import looking
from dovetail_relay.setup.connect import one
from dovetail_schemas.avro import Codec, SchemaInvalid
from dovetail_schemas.sql import queries

# A schema's text by its id, None for an unknown id; raises SchemaUnavailable.
Fetch = Callable[[int], str | None]

_BELIEVED_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 5.0
_MOST_BYTES: Final = 8 << 20


class SchemaUnavailable(Exception):
    """There is no codec for an id; `str()` says why."""


class Schemas:
    """Codecs by schema id, fetched once. Not thread-safe."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._codecs: dict[int, Codec] = {}
        self._missing: dict[int, tuple[float, str]] = {}

    def codec(self, schema_id: int) -> Codec:
        """Raises SchemaUnavailable."""
        codec = self._codecs.get(schema_id)
        if codec is None:
            codec = self._codecs[schema_id] = self._fetched(schema_id)
        return codec

    def _fetched(self, schema_id: int) -> Codec:
        until, reason = self._missing.get(schema_id, (0.0, ""))
        if self._clock() < until:
            raise SchemaUnavailable(reason)
        try:
            text = self._fetch(schema_id)
            if text is None:
                raise SchemaUnavailable(f"no schema has the id {schema_id}")
            return Codec(text, allow_recursive=True)
        except SchemaInvalid as error:
            reason = f"schema {schema_id} is not usable: {error}"
        except SchemaUnavailable as error:
            reason = str(error)
        if len(self._missing) > 10_000:
            self._missing.clear()
        self._missing[schema_id] = (self._clock() + _BELIEVED_SECONDS, reason)
        raise SchemaUnavailable(reason)


def from_database(settings: Settings) -> Fetch:
    """One short connection per unknown id: `tail` may run for days and must not hold a session all the while."""

    def fetch(schema_id: int) -> str | None:
        try:
            with looking(settings) as connection:
                row = one(connection, queries["observe_schema"], {"id": schema_id})
        except (psycopg.Error, RelayError, ServerUnreachable) as error:
            raise SchemaUnavailable(f"schema {schema_id} could not be read: {scrubbed(error)}") from error
        return None if row is None else str(row["definition"])

    # Ids are 31 bits in the database; a value that says more was framed by somebody else.
    return lambda schema_id: fetch(schema_id) if schema_id < 1 << 31 else None


def from_registry(url: str) -> Fetch:
    """`GET <url>/schemas/ids/<id>`, as Confluent's clients ask. Raises ConfigInvalid for what is no HTTP address."""
    refused = ConfigInvalid(["registry.url: is not an address such as https://registry:8081"])
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise refused from None
    if host is None or parts.scheme not in {"http", "https"}:
        raise refused
    host = f"[{host}]" if ":" in host else host
    address = urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), "", ""))
    headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def fetch(schema_id: int) -> str | None:
        request = Request(f"{address}/schemas/ids/{schema_id}", headers=headers)  # noqa: S310 - http(s), checked above
        try:
            with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
                return _schema_in(json.loads(answer.read(_MOST_BYTES)))
        except HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise SchemaUnavailable(f"the registry answered {error.code} for schema {schema_id}") from error
        except URLError as error:
            raise SchemaUnavailable(f"the registry does not answer: {scrubbed(error.reason)}") from error
        except (OSError, ValueError) as error:
            raise SchemaUnavailable(f"the registry's answer cannot be read: {scrubbed(error)}") from error

    return fetch


def _schema_in(said: Any) -> str:
    if not isinstance(said, dict) or not isinstance(said.get("schema"), str):
        raise ValueError("it holds no schema")  # noqa: TRY004 - what came is not the caller's type error
    if said.get("schemaType", "AVRO") != "AVRO":
        raise SchemaUnavailable(f"it is a {said['schemaType']!s:.20} schema; only Avro is decoded")
    if said.get("references"):
        raise SchemaUnavailable("it refers to other schemas, which are not followed")
    return str(said["schema"])
