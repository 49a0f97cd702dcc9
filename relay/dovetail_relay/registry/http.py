"""Confluent's Schema Registry REST API, the reads: enough for any deserializer that speaks it, unmodified.

Paths, bodies and error codes are Confluent's. Writes are refused with the command that does them; the one POST that is
answered, to a subject, only looks a schema up (deserializers that read with the newest version ask it). A subject may
hold any character: paths are split before they are decoded, where the server hands over the raw one (`REQUEST_URI`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

from dovetail_relay.registry.builtin import BuiltinRegistry, RegistryUnavailable
from dovetail_relay.registry.database import SchemaRow

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"

_LARGEST: Final = 2**31 - 1
_SUBJECT_UNKNOWN: Final = 40401
_VERSION_UNKNOWN: Final = 40402
_SCHEMA_UNKNOWN: Final = 40403
_NO_SUBJECT_LEVEL: Final = 40408
_NO_SUBJECT_MODE: Final = 40409
_SCHEMA_INVALID: Final = 42201
_VERSION_INVALID: Final = 42202
_STORE_SILENT: Final = 50001

# What a schema may measure in `dovetail_schemas`, twice over for being quoted inside JSON.
_LARGEST_BODY: Final = 2_000_000

_Query = dict[str, list[str]]


class _Refusal(Exception):
    """An answer that is an error: HTTP status, Confluent's code, what to say."""

    def __init__(self, status: HTTPStatus, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def registry_app(registry: BuiltinRegistry, *, compatibility: str = "BACKWARD") -> WSGIApplication:
    """The WSGI application over a registry, thread-safe. `compatibility` is the level that /config names."""
    return _RegistryApp(registry, compatibility)


class _RegistryApp:
    def __init__(self, registry: BuiltinRegistry, compatibility: str) -> None:
        self._registry = registry
        self._compatibility = compatibility

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        extra: list[tuple[str, str]] = []
        try:
            status, said = HTTPStatus.OK, self._read(environ)
        except _Refusal as refusal:
            status, said = refusal.status, {"error_code": refusal.code, "message": str(refusal)}
            if status is HTTPStatus.METHOD_NOT_ALLOWED:
                extra.append(("Allow", "GET, HEAD"))
        except RegistryUnavailable:
            # Neither yes nor no: a client retries on a 500, and would give up for good on a 404.
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            said = {"error_code": _STORE_SILENT, "message": "the database did not answer"}
        # A schema is sent as JSON text in JSON; /schema endpoints send it as it is.
        body = said.encode() if isinstance(said, _Raw) else json.dumps(said).encode()
        headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body))), *extra]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _read(self, environ: WSGIEnvironment) -> object:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return self._lookup(environ)
        query = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=20)
        match _segments(environ):
            case []:
                return {}
            case ["schemas", "types"]:
                return ["AVRO"]
            case ["schemas", "ids", schema_id, *rest]:
                return self._by_id(self._schema(schema_id), rest)
            case ["subjects"]:
                wanted = query.get("subjectPrefix", [""])[0]
                return [subject for subject in self._registry.subjects() if subject.startswith(wanted)]
            case ["subjects", subject, "versions", *rest]:
                return self._by_subject(subject, rest)
            case ["config" | "mode" as which, *rest]:
                return self._setting(which, rest, query)
            case _:
                raise _not_found()

    def _lookup(self, environ: WSGIEnvironment) -> object:
        """Which version of a subject a schema is, compared as JSON: order of keys and white space do not count."""
        # Read in any case: an answer before the end of the request may be lost with the connection.
        body = _body(environ)
        match _segments(environ):
            case ["subjects", subject] if environ["REQUEST_METHOD"] == "POST":
                wanted = _schema_in(body)
            case _:
                message = "this port only reads; services register schemas: dovetail.register(conn, …) at start-up"
                raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.METHOD_NOT_ALLOWED.value, message)
        versions = self._registry.versions(subject)
        if not versions:
            raise _Refusal(HTTPStatus.NOT_FOUND, _SUBJECT_UNKNOWN, f"Subject '{subject}' not found.")
        for version in sorted(versions, reverse=True):
            row = versions[version]
            if json.loads(row.definition) == wanted:
                return _version_said(subject, version, row)
        raise _Refusal(HTTPStatus.NOT_FOUND, _SCHEMA_UNKNOWN, "Schema not found")

    def _by_id(self, row: SchemaRow, rest: list[str]) -> object:
        match rest:
            case []:
                return {"schema": row.definition}
            case ["schema"]:
                return _Raw(row.definition)
            case ["subjects"]:
                return sorted({subject for subject, _ in self._registry.uses(row.schema_id)})
            case ["versions"]:
                uses = self._registry.uses(row.schema_id)
                return [{"subject": subject, "version": version} for subject, version in uses]
            case _:
                raise _not_found()

    def _by_subject(self, subject: str, rest: list[str]) -> object:
        versions = self._registry.versions(subject)
        if not versions:
            raise _Refusal(HTTPStatus.NOT_FOUND, _SUBJECT_UNKNOWN, f"Subject '{subject}' not found.")
        if not rest:
            return list(versions)
        version = max(versions) if rest[0] in {"latest", "-1"} else _version(rest[0])
        row = versions.get(version)
        if row is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, _VERSION_UNKNOWN, f"Version {version} not found.")
        match rest[1:]:
            case []:
                return _version_said(subject, version, row)
            case ["schema"]:
                return _Raw(row.definition)
            case ["referencedby"]:
                return []
            case _:
                raise _not_found()

    def _setting(self, which: str, rest: list[str], query: _Query) -> object:
        said = {"compatibilityLevel": self._compatibility} if which == "config" else {"mode": "READONLY"}
        match rest:
            case []:
                return said
            case [_] if query.get("defaultToGlobal", [""])[0].lower() == "true":
                return said
            case [subject] if which == "config":
                message = f"Subject '{subject}' does not have subject-level compatibility configured"
                raise _Refusal(HTTPStatus.NOT_FOUND, _NO_SUBJECT_LEVEL, message)
            case [subject]:
                message = f"Subject '{subject}' does not have subject-level mode configured"
                raise _Refusal(HTTPStatus.NOT_FOUND, _NO_SUBJECT_MODE, message)
            case _:
                raise _not_found()

    def _schema(self, text: str) -> SchemaRow:
        # The id of an event's schema is what a consumer asks with, whatever `subject` it adds.
        row = None
        if _is_number(text):
            row = self._registry.schema(int(text))
        if row is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, _SCHEMA_UNKNOWN, f"Schema {text} not found")
        return row


class _Raw(str):
    """A body that is sent as it is."""

    __slots__ = ()


def _version_said(subject: str, version: int, row: SchemaRow) -> dict[str, object]:
    return {"subject": subject, "version": version, "id": row.schema_id, "schema": row.definition}


def _body(environ: WSGIEnvironment) -> bytes:
    text = environ.get("CONTENT_LENGTH") or "0"
    length = int(text) if text.isascii() and text.isdigit() and len(text) < len(str(_LARGEST)) else _LARGEST
    try:
        body: bytes = environ["wsgi.input"].read(min(length, _LARGEST_BODY))
    except OSError:
        # The client fell silent in the middle.
        raise _Refusal(HTTPStatus.BAD_REQUEST, HTTPStatus.BAD_REQUEST.value, "the request ended early") from None
    if length > _LARGEST_BODY:
        too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise _Refusal(too_large, too_large.value, f"a request may have {_LARGEST_BODY} bytes")
    return body


def _schema_in(body: bytes) -> object:
    try:
        return json.loads(json.loads(body)["schema"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, _SCHEMA_INVALID, "Invalid schema") from None


def _segments(environ: WSGIEnvironment) -> list[str]:
    """The path's segments, decoded each on its own. A trailing slash does not count."""
    raw = environ.get("REQUEST_URI")
    if raw is not None:
        path = raw.partition("?")[0]
        decoded = [unquote(part) for part in path.split("/")]
    else:
        decoded = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace").split("/")
    if decoded and decoded[0] == "":
        decoded = decoded[1:]
    if decoded and decoded[-1] == "":
        decoded = decoded[:-1]
    return decoded


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST)) and int(text) <= _LARGEST


def _version(text: str) -> int:
    if not _is_number(text) or int(text) == 0:
        raise _Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            _VERSION_INVALID,
            f"The specified version '{text}' is not a valid version id. "
            f'Allowed values are between [1, 2^31-1] and the string "latest"',
        )
    return int(text)


def _not_found() -> _Refusal:
    return _Refusal(HTTPStatus.NOT_FOUND, HTTPStatus.NOT_FOUND.value, "HTTP 404 Not Found")
