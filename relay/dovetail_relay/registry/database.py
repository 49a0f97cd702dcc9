"""The built-in registry's rows, read from `event_schema` and `event_schema_version`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import psycopg

from dovetail_schemas.sql import queries


class SchemaRow(NamedTuple):
    """A row of `event_schema`. `definition` is the normalised schema as JSON text."""

    fingerprint: bytes
    schema_id: int
    definition: str


class VersionRow(NamedTuple):
    """A row of `event_schema_version`."""

    subject: str
    version: int
    fingerprint: bytes


class Found(NamedTuple):
    """What a look into the database brings: schemas (the new ones are enough) and all versions."""

    schemas: tuple[SchemaRow, ...]
    versions: tuple[VersionRow, ...]


# Given the fingerprints that are known; may raise anything, which counts as "the database did not answer".
LookUp = Callable[[frozenset[bytes]], Found]


def read(conn: psycopg.Connection[Any], known: frozenset[bytes] = frozenset()) -> Found:
    """The schemas beyond `known`, and all versions. Two statements; the caller owns the transaction, if any."""
    with psycopg.RawCursor(conn) as cursor:
        # Versions first: their schemas are committed by then, and the second statement sees them all.
        versions = tuple(
            VersionRow(subject, version, bytes(fingerprint))
            for subject, version, fingerprint in cursor.execute(queries["registry_all_versions"])
        )
        if known:
            cursor.execute(queries["registry_new_schemas"], (list(known),))
        else:
            cursor.execute(queries["registry_all_schemas"])
        schemas = tuple(SchemaRow(bytes(fingerprint), schema_id, text) for fingerprint, schema_id, text in cursor)
    return Found(schemas, versions)


def look_up_with(connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]]) -> LookUp:
    """A look-up that opens a connection for itself and closes it again.

    HTTP threads must not share the relay's lock session. `connect` should have a short timeout and autocommit on.
    """

    def look_up(known: frozenset[bytes]) -> Found:
        with connect() as conn:
            return read(conn, known)

    return look_up
