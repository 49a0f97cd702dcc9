"""Where an inbox gets the schemas of other writers: over HTTP from a registry, or from a database's own table.

An id never changes its meaning, so what was found is kept; only the number kept is bounded.
"""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from dovetail.errors import RegistryUnavailable, SchemaUnknown
from dovetail_schemas.avro import Codec
from dovetail_schemas.sql import queries

MAX_SCHEMAS = 1_000
_MAX_ANSWER_BYTES = 2_000_000
_NOT_FOUND = 404


class CachedSchemas:
    """The part that keeps codecs; a subclass says how to fetch a schema's text. Thread-safe."""

    def __init__(self, *, max_schemas: int = MAX_SCHEMAS, allow_recursive: bool = False) -> None:
        self._max_schemas = max_schemas
        self._allow_recursive = allow_recursive
        self._codecs: dict[int, Codec] = {}
        self._lock = threading.Lock()

    def codec(self, schema_id: int) -> Codec:
        """The codec of a schema. Raises `SchemaUnknown`, `RegistryUnavailable` or `SchemaInvalid`."""
        found = self._codecs.get(schema_id)
        if found is None:
            found = Codec(self.fetch(schema_id), allow_recursive=self._allow_recursive)
            with self._lock:
                while len(self._codecs) >= self._max_schemas:
                    del self._codecs[next(iter(self._codecs))]
                self._codecs[schema_id] = found
        return found

    def fetch(self, schema_id: int) -> str:
        """The text of a schema, asked anew."""
        raise NotImplementedError


class HttpSchemas(CachedSchemas):
    """A Confluent-compatible registry: a relay's own port, its console, or any other. Redirects are not followed."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 5.0,
        headers: dict[str, str] | None = None,
        max_schemas: int = MAX_SCHEMAS,
        allow_recursive: bool = False,
    ) -> None:
        super().__init__(max_schemas=max_schemas, allow_recursive=allow_recursive)
        if not url.startswith(("http://", "https://")):
            raise ValueError("the registry's URL must begin with http:// or https://")
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json", **(headers or {})}
        self._opener = _opener()

    def fetch(self, schema_id: int) -> str:
        """GET /schemas/ids/{id}."""
        request = urllib.request.Request(f"{self._url}/schemas/ids/{schema_id}", headers=self._headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                data = answer.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _NOT_FOUND:
                raise SchemaUnknown(f"the registry has no schema {schema_id}") from None
            raise RegistryUnavailable(f"the registry answered {error.code} for the schema {schema_id}") from None
        except (OSError, HTTPException) as error:
            raise RegistryUnavailable(f"the registry cannot be reached: {str(error)[:200]}") from error
        return _schema_text(schema_id, data)


class DatabaseSchemas(CachedSchemas):
    """The schemas registered in a PostgreSQL database; `connect` gives a new connection, used once per schema."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        max_schemas: int = MAX_SCHEMAS,
        allow_recursive: bool = False,
    ) -> None:
        super().__init__(max_schemas=max_schemas, allow_recursive=allow_recursive)
        self._connect = connect

    def fetch(self, schema_id: int) -> str:
        """Read `dovetail.event_schema`."""
        try:
            with self._connect() as connection:
                cursor = psycopg.RawCursor(connection, row_factory=tuple_row)
                row = cursor.execute(queries["schema_definition"], (schema_id,)).fetchone()
        except psycopg.OperationalError as error:
            raise RegistryUnavailable("the database that holds the schemas cannot be reached") from error
        if row is None:
            raise SchemaUnknown(f"the database has no schema {schema_id}")
        return str(row[0])


def _opener() -> urllib.request.OpenerDirector:
    """Everything that urllib brings by itself, without following redirects and without other protocols.

    A registry that sends us elsewhere is misconfigured, or is not the one we were told of.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _schema_text(schema_id: int, data: bytes) -> str:
    try:
        answer = json.loads(data)
        text = answer["schema"]
    except (ValueError, KeyError, TypeError):
        raise RegistryUnavailable(f"the registry's answer for the schema {schema_id} is not one") from None
    if not isinstance(text, str) or answer.get("schemaType", "AVRO") != "AVRO":
        raise SchemaUnknown(f"the schema {schema_id} is not an Avro schema")
    return text
