"""The roles and what they may do, the tables, the publication and the slot. The outbox itself is `checks_outbox`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from psycopg import sql

from dovetail_relay.config import Role, Settings
from dovetail_relay.retention import LEAVES
from dovetail_relay.setup.checks_server import Server
from dovetail_relay.setup.connect import Session, one, replication_session, rows, session
from dovetail_relay.setup.findings import Finding, Status, judge, ok
from dovetail_relay.setup.grants import GROUPS
from dovetail_relay.setup.migrate import applied, pending
from dovetail_relay.setup.shape import expected_sql, made_again, outbox_columns, publication_problems
from dovetail_relay.setup.slot import relay_row, slot_problem
from dovetail_relay.source.publication import read_publication
from dovetail_schemas.sql import migrations, queries

# From this release on a publication that is not there is a warning in the server's log, and its rows are not sent.
PASSES_OVER_SINCE = 180000

# What each role needs: (relation, rights). `{outbox}` is the configured table.
_NEEDS: dict[Role, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "relay": (
        ("{outbox}", ("SELECT",)),
        ("dovetail.event_schema", ("SELECT",)),
        ("dovetail.relay", ("SELECT", "INSERT", "UPDATE")),
        ("dovetail.migration", ("SELECT",)),
        ("dovetail.parked", ("SELECT", "INSERT", "UPDATE", "DELETE")),
        ("dovetail.command", ("SELECT", "DELETE")),
        ("dovetail.command_event", ("SELECT", "DELETE")),
        *((f"dovetail.outbox_{leaf}", ("TRUNCATE",)) for leaf in range(LEAVES)),
    ),
    "app": (
        ("{outbox}", ("INSERT",)),
        ("dovetail.event_schema", ("SELECT", "INSERT")),
        ("dovetail.inbox", ("SELECT", "INSERT")),
    ),
    "operator": (("{outbox}", ("SELECT",)), ("dovetail.relay", ("SELECT",))),
}
# On a table that is not ours: the right, what for, and how bad it is without.
_FOREIGN_NEEDS: dict[Role, tuple[Literal["INSERT", "SELECT"], str, Status]] = {
    "app": ("INSERT", "to publish", "fail"),
    "operator": ("SELECT", "to look up an event by its id", "warn"),
}


def attributes(server: Server) -> Iterator[Finding]:
    """The relay's role: it replicates, and is no superuser. Tried for real: poolers and pg_hba show only then."""
    login = server.facts["role"]
    yield judge(
        "postgres.relay_role",
        good=not server.facts["rolsuper"],
        found=f"{login}, a superuser" if server.facts["rolsuper"] else f"{login}, not a superuser",
        wanted="a role of its own: LOGIN REPLICATION, member of dovetail_relay",
        remedy="CREATE ROLE dovetail_relay_login LOGIN REPLICATION; GRANT dovetail_relay TO dovetail_relay_login",
        otherwise="warn",
    )
    with replication_session(server.settings) as replication:
        system = replication.execute("IDENTIFY_SYSTEM").fetchone() or {}
    yield ok(
        "postgres.replication", f"{login} may replicate; system {system['systemid']}, timeline {system['timeline']}"
    )


def tables(server: Server) -> Iterator[Finding]:
    """The migrations and the outbox's columns."""
    done = applied(server.connection)
    todo = pending(done)
    yield judge(
        "dovetail.migrations",
        good=not todo,
        found=f"at {max(done, default=0):04d}" if done else "never applied",
        wanted=f"at {len(migrations()):04d}",
        remedy="dovetail init --owner-dsn …",
    )
    if done:
        columns = outbox_columns(server.connection, server.settings)
        yield ok("dovetail.outbox_columns", ", ".join(columns))


def rights(connection: Session, settings: Settings, role: Role) -> Iterator[Finding]:
    """What a role may do to the tables that it works with."""
    missing = [f"{right} on {relation}" for relation, right in _lacking(connection, settings, role)]
    login = connection.info.user
    yield judge(
        f"postgres.{role}_rights",
        good=not missing,
        found=f"{login} lacks {', '.join(missing)}" if missing else f"{login} may do what it needs to",
        wanted=f"member of {GROUPS[role]}",
        remedy=f'GRANT {GROUPS[role]} TO "{login}"',
    )
    if settings.outbox.foreign and role in _FOREIGN_NEEDS:
        yield from _foreign_rights(connection, settings, role)


def _foreign_rights(connection: Session, settings: Settings, role: Role) -> Iterator[Finding]:
    """On a table that is not ours nobody is granted anything by init. The relay needs nothing there: it streams."""
    (schema, table), (right, why, otherwise) = settings.outbox.schema_and_table, _FOREIGN_NEEDS[role]
    row = one(connection, queries["setup_rights"], {"schema": schema, "table": table, "rights": [right]})
    login = connection.info.user
    yield judge(
        f"postgres.{role}_outbox_rights",
        good=bool(row and row["can_use_schema"] and not row["lacking"]),
        found=f"{login} on {schema}.{table}",
        wanted=f"{right} on {schema}.{table}, {why}",
        remedy=sql.SQL("GRANT {} ON {} TO {}")
        .format(sql.SQL(right), sql.Identifier(schema, table), sql.Identifier(login))
        .as_string(connection),
        otherwise=otherwise,
    )


def _lacking(connection: Session, settings: Settings, role: Role) -> Iterator[tuple[str, str]]:
    schema, table = settings.outbox.schema_and_table
    for name, needed in _NEEDS[role]:
        if name == "{outbox}" and settings.outbox.foreign:
            continue  # no group role can help there; `_foreign_rights` says what does
        relation_schema, relation = (schema, table) if name == "{outbox}" else name.split(".")
        row = one(
            connection, queries["setup_rights"], {"schema": relation_schema, "table": relation, "rights": list(needed)}
        )
        if row is None:
            yield f"{relation_schema}.{relation} (it does not exist)", "everything"
            continue
        if not row["can_use_schema"]:
            yield f"schema {relation_schema}", "USAGE"
        yield from ((f"{relation_schema}.{relation}", right) for right in row["lacking"] or ())


def publication(server: Server) -> Iterator[Finding]:
    """Its shape, and whether it is still what init recorded. Each remedy ends with the command that goes on."""
    name = server.settings.outbox.publication
    columns = outbox_columns(server.connection, server.settings)
    make = expected_sql(server.settings, columns).as_string(server.connection)
    row = relay_row(server.connection, server.settings)
    try:
        found = read_publication(server.connection, name)
    except LookupError as error:
        yield Finding(
            "dovetail.publication", "fail", str(error), make, f"{make}; then {_behind_a_new_one(server, row)}"
        )
        return
    problems = publication_problems(found, server.settings, columns)
    yield judge(
        "dovetail.publication",
        good=not problems,
        found="; ".join(problems) or f"{name}: inserts of the outbox only, via its root",
        wanted=make,
        remedy=f"{made_again(server.connection, server.settings, columns)}; then "
        + ("dovetail init" if row is None else "dovetail doctor, which says what comes behind it"),
    )
    # What comes behind a cure is said once there is nothing left to cure.
    if row and not problems and not found.unstreamed:
        yield judge(
            "dovetail.publication_fingerprint",
            good=row["publication_fingerprint"] == found.fingerprint,
            found=found.fingerprint[:12],
            wanted=f"{row['publication_fingerprint'][:12]}, as recorded: rows written in between may be missing",
            remedy=f"{_behind_a_new_one(server, row)}; or, where nothing was written in between, dovetail relay accept "
            "alone",
        )


def _behind_a_new_one(server: Server, row: Mapping[str, Any] | None) -> str:
    """What comes after the making of a publication that was gone, or is another one: rows were written meanwhile.

    PostgreSQL 18 passes over them, and older servers never get past the first of them; so the slot is given up, and
    what it would have sent comes from the table.
    """
    if row is None:
        return "dovetail init"
    drop = "" if server.slot is None else f"dovetail slot drop --slot {server.settings.relay.slot}, "
    if not server.settings.outbox.foreign:
        return f"{drop}dovetail relay accept, dovetail recover"
    again = "insert again what was written meanwhile"
    if drop and server.facts["version"] >= PASSES_OVER_SINCE:
        return f"dovetail relay accept; {again}"
    return f"{drop}another relay.name, dovetail init; {again}"


def slot(server: Server) -> Iterator[Finding]:
    """The slot, the relay's row, and whether the two belong together and to this server."""
    name, facts = server.settings.relay.slot, server.slot
    row = relay_row(server.connection, server.settings) if applied(server.connection) else None
    if facts is None:
        yield Finding(
            "dovetail.slot", "fail", f"slot {name!r} does not exist", "made by init, as the relay's role",
            "dovetail recover" if row else "dovetail init",
        )  # fmt: skip
    else:
        problem = slot_problem(facts, server.settings, server.facts["database"])
        state = f"{name}: {facts['wal_status']}, {'streaming' if facts['active'] else 'not streaming'}"
        yield judge(
            "dovetail.slot",
            good=problem is None,
            found=problem or f"{state}, holds {_megabytes(facts['retained_bytes'])} of WAL",
            wanted="a pgoutput slot of this database that is not lost",
            remedy="dovetail recover" if row else f"SELECT pg_drop_replication_slot('{name}'), then dovetail init",
        )
        if problem is None and facts["wal_status"] in {"extended", "unreserved"}:
            yield Finding(
                "dovetail.slot_wal", "fail" if facts["wal_status"] == "unreserved" else "warn",
                f"wal_status is {facts['wal_status']}",
                "reserved: the server is about to throw away WAL that the relay needs",
                "start the relay, or raise max_slot_wal_keep_size",
            )  # fmt: skip
    if (row is None) != (facts is None):
        yield _half(server, row)
    elif row:
        yield from _same_system(server, row)


def _half(server: Server, row: dict[str, Any] | None) -> Finding:
    name = server.settings.relay.name
    found = f"the row {name!r} is there, its slot is not" if row else f"the slot is there, the row {name!r} is not"
    remedy = (
        "dovetail recover" if row else f"SELECT pg_drop_replication_slot('{server.settings.relay.slot}'), dovetail init"
    )
    return Finding("dovetail.relay_row", "fail", found, "both, made together by init", remedy)


def _same_system(server: Server, row: dict[str, Any]) -> Iterator[Finding]:
    with replication_session(server.settings) as replication:
        system = replication.execute("IDENTIFY_SYSTEM").fetchone() or {}
    started = "started" if row["started"] else "never started"
    yield judge(
        "dovetail.relay_row",
        good=row["system_id"] == system["systemid"],
        found=f"relay {row['name']!r} of system {row['system_id']}, epoch {row['epoch']}, {started}",
        wanted=f"system {system['systemid']}, to which the DSN leads",
        remedy="correct postgres.dsn, or dovetail recover --new-epoch",
    )


def other_role(settings: Settings, role: Role) -> Iterator[Finding]:
    """A role that only its own processes use: whether it gets in and what it may do."""
    with session(settings, role) as connection:
        yield ok(f"postgres.{role}_connection", f"{connection.info.user} on {connection.info.dbname}")
        if not rows(connection, queries["setup_columns"], {"schema": "dovetail", "table": "relay"}):
            return  # before init there is nothing to have rights on, and dovetail.migrations says so
        yield from rights(connection, settings, role)


def _megabytes(number: Any) -> str:
    return "?" if number is None else f"{int(number) / (1 << 20):.1f} MB"
