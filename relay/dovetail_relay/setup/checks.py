"""Everything that `dovetail doctor` looks at, in order. One server that is down never hides what is wrong elsewhere.

Nothing is changed: not a row, not a topic, and the leader is not disturbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from dovetail_relay.config import Settings
from dovetail_relay.setup import checks_outbox, checks_roles, checks_server, checks_stuck
from dovetail_relay.setup.checks_kafka import kafka_checks
from dovetail_relay.setup.checks_progress import progress
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.encoding import encoding
from dovetail_relay.setup.findings import Finding, guarded, ok
from dovetail_relay.setup.migrate import applied
from dovetail_relay.setup.slot import relay_row

OK, UNREACHABLE, FOUND = 0, 3, 4

_DATABASE_CHECKS = (encoding, checks_roles.attributes, checks_roles.tables)
_TABLE_CHECKS = (checks_roles.publication, *checks_outbox.CHECKS, checks_roles.slot, *checks_stuck.CHECKS)


def examine(settings: Settings) -> Iterator[Finding]:
    """Each finding as soon as it is known."""
    recorded: dict[str, int] = {}
    yield from guarded("postgres.connection", partial(_postgres, settings, recorded))
    if settings.postgres.app_dsn:
        yield from guarded("postgres.app_connection", partial(checks_roles.other_role, settings, "app"))
    if settings.postgres.operator_dsn:
        yield from guarded("postgres.operator_connection", partial(checks_roles.other_role, settings, "operator"))
    yield from guarded("kafka.connection", partial(kafka_checks, settings, recorded))
    yield from guarded("dovetail.progress", partial(progress, settings))


def exit_code(findings: Iterable[Finding]) -> int:
    """3 when a server cannot be reached, 4 when something fails, 0 otherwise; warnings alone are fine."""
    seen = list(findings)
    if any(finding.unreachable for finding in seen):
        return UNREACHABLE
    return FOUND if any(finding.status == "fail" for finding in seen) else OK


def _postgres(settings: Settings, recorded: dict[str, int]) -> Iterator[Finding]:
    with session(settings, "relay") as connection:
        info = connection.info
        yield ok("postgres.connection", f"{info.user} on {info.dbname} at {info.host or 'a local socket'}:{info.port}")
        server = checks_server.look(connection, settings)
        for check in (*checks_server.CHECKS, *_DATABASE_CHECKS):
            yield from guarded(f"postgres.{check.__name__}", partial(check, server))
        if not applied(connection):
            return  # said by dovetail.migrations; below there is nothing to look at
        yield from guarded("postgres.relay_rights", partial(checks_roles.rights, connection, settings, "relay"))
        for check in _TABLE_CHECKS:
            yield from guarded(f"dovetail.{check.__name__}", partial(check, server))
        row: Mapping[str, object] | None = relay_row(connection, settings)
        if row:
            recorded.update(row["partition_counts"])  # type: ignore[call-overload]
