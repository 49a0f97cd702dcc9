"""The built-in registry's memory: schemas by fingerprint and by id, subjects with their versions.

One writer, many readers: what is known is one immutable snapshot that a writer replaces as a whole, so a reader never
waits for a lock and never sees half a change. Schemas are never forgotten, because an id once sent to Kafka may be
asked for as long as the topic lives; versions are taken as the database has them.

A reader that misses may make the registry look into the database, at most once a second and one look-up at a time. The
relay's own loop learns a schema before it publishes the first event that carries it, so for a consumer's id there is
normally nothing to look up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dovetail_relay.registry.database import LookUp, SchemaRow, VersionRow, read

if TYPE_CHECKING:
    import psycopg

# How long a look-up's answer counts, a negative one included: random ids asked for over HTTP must not become a
# connection to PostgreSQL each.
_LOOK_UP_EVERY_SECONDS: Final = 1.0


class RegistryUnavailable(Exception):
    """The answer is not in memory and the database could not be asked: neither yes nor no."""


class _Snapshot(NamedTuple):
    schemas: Mapping[bytes, SchemaRow]
    by_id: Mapping[int, SchemaRow]
    subjects: Mapping[str, Mapping[int, SchemaRow]]


_NOTHING: Final = _Snapshot({}, {}, {})


class BuiltinRegistry:
    """Reads are thread-safe and lock-free; `load` and `sync` take turns with a look-up.

    Without `look_up` a miss is final. `clock` is monotonic, in seconds.
    """

    def __init__(self, look_up: LookUp | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._look_up = look_up
        self._clock = clock
        self._snapshot = _NOTHING
        self._writing = threading.Lock()
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._failed = False

    def load(self, schemas: Iterable[SchemaRow], versions: Iterable[VersionRow] | None = None) -> tuple[SchemaRow, ...]:
        """Add `schemas`, replace all versions (None leaves them); return the schemas that are new here.

        A version whose schema is not known is left out.
        """
        with self._writing:
            old = self._snapshot
            new = tuple({row.fingerprint: row for row in schemas if row.fingerprint not in old.schemas}.values())
            by_fingerprint = {**old.schemas, **{row.fingerprint: row for row in new}} if new else old.schemas
            by_id = {**old.by_id, **{row.schema_id: row for row in new}} if new else old.by_id
            subjects = old.subjects if versions is None else _by_subject(versions, by_fingerprint)
            self._snapshot = _Snapshot(by_fingerprint, by_id, subjects)
        return new

    def sync(self, conn: psycopg.Connection[Any]) -> tuple[SchemaRow, ...]:
        """Take in what the database has; return the schemas that are new here. For the loop that owns `conn`."""
        found = read(conn, self.fingerprints())
        return self.load(found.schemas, found.versions)

    def fingerprints(self) -> frozenset[bytes]:
        """What is known by now."""
        return frozenset(self._snapshot.schemas)

    def ids(self) -> Mapping[bytes, int]:
        """Fingerprint → id of all that is known, to fill an encoder with."""
        return {fingerprint: row.schema_id for fingerprint, row in self._snapshot.schemas.items()}

    def id_of(self, fingerprint: bytes) -> int | None:
        """From memory alone."""
        row = self._snapshot.schemas.get(fingerprint)
        return None if row is None else row.schema_id

    def known(self, fingerprint: bytes) -> SchemaRow | None:
        """From memory alone; never looks into the database."""
        return self._snapshot.schemas.get(fingerprint)

    def schema(self, schema_id: int) -> SchemaRow | None:
        """By the id that Kafka values carry. May look up on a miss; raises RegistryUnavailable when that failed."""
        found = self._snapshot.by_id.get(schema_id)
        if found is None:
            self._refresh()
            found = self._snapshot.by_id.get(schema_id)
            if found is None and self._failed:
                raise RegistryUnavailable
        return found

    def subjects(self) -> list[str]:
        """All subjects, sorted. Fresh to a second while the database answers, else as last known."""
        self._refresh()
        return sorted(self._snapshot.subjects)

    def versions(self, subject: str) -> Mapping[int, SchemaRow]:
        """Version → schema, ascending; empty for an unknown subject. Freshness as for `subjects`.

        Raises RegistryUnavailable where memory has nothing and the database could not be asked.
        """
        self._refresh()
        found = self._snapshot.subjects.get(subject)
        if found is None and self._failed:
            raise RegistryUnavailable
        return MappingProxyType(found or {})

    def uses(self, schema_id: int) -> list[tuple[str, int]]:
        """The subjects and versions that name this schema, sorted. Freshness as for `subjects`."""
        self._refresh()
        return sorted(
            (subject, version)
            for subject, versions in self._snapshot.subjects.items()
            for version, row in versions.items()
            if row.schema_id == schema_id
        )

    def _refresh(self) -> None:
        """Look into the database unless that was done less than a second ago.

        Whoever comes while another thread looks waits for it and takes its answer.
        """
        if self._look_up is None or self._is_recent():
            return
        with self._looking:
            if self._is_recent():
                return
            try:
                found = self._look_up(self.fingerprints())
            except Exception:  # noqa: BLE001 - whatever went wrong, the answer is "the database did not say"
                self._failed = True
            else:
                self.load(found.schemas, found.versions)
                self._failed = False
            self._looked_at = self._clock()

    def _is_recent(self) -> bool:
        looked_at = self._looked_at
        return looked_at is not None and self._clock() - looked_at < _LOOK_UP_EVERY_SECONDS


def _by_subject(
    versions: Iterable[VersionRow], schemas: Mapping[bytes, SchemaRow]
) -> Mapping[str, Mapping[int, SchemaRow]]:
    subjects: dict[str, dict[int, SchemaRow]] = {}
    for subject, version, fingerprint in sorted(versions):
        row = schemas.get(fingerprint)
        if row is not None:
            subjects.setdefault(subject, {})[version] = row
    return subjects
