"""Parts of an outbox whose rows the server sends nowhere: `init` and `doctor` name them, and a relay halts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.config import Settings
from dovetail_relay.errors import Misconfigured, OutboxAltered, PublicationChanged
from dovetail_relay.setup import checks_outbox
from dovetail_relay.setup.checks_server import Server, look
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.findings import Finding
from dovetail_relay.source.publication import publication_fingerprint
from support.installation import run_init, settings_of, states

COLUMNS = (
    "id uuid NOT NULL, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,"
    " type varchar(255) NOT NULL, payload jsonb"
)


def findings(settings: Settings, check: Callable[[Server], Iterator[Finding]]) -> list[Finding]:
    """What one check of the doctor says, as the relay's role."""
    with session(settings, "relay") as connection:
        return list(check(look(connection, settings)))


@pytest.fixture
def owner(database: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def foreign(database: Endpoints) -> Settings:
    return settings_of(database, outbox__table="public.outboxevent")


def typed(owner: psycopg.Connection[Any], remedy: str) -> None:
    """The statements of a remedy, as an operator would type them; what comes after "then" is a command."""
    owner.execute(remedy.split("; then ", maxsplit=1)[0])  # type: ignore[arg-type]


def test_a_leaf_that_is_not_logged_fails_the_doctor_with_the_statement_and_is_another_publication(
    database: Endpoints, owner: psycopg.Connection[Any]
) -> None:
    settings = settings_of(database)
    run_init(settings)
    before = publication_fingerprint(owner, "dovetail")
    owner.execute("ALTER TABLE dovetail.outbox_3 SET UNLOGGED")

    (finding,) = findings(settings, checks_outbox.parts)
    assert (finding.status, finding.check) == ("fail", "dovetail.outbox_parts")
    assert finding.found.startswith("dovetail.outbox_3 is not logged: rows in it are never published")
    assert finding.remedy.startswith('ALTER TABLE "dovetail"."outbox_3" SET LOGGED; then dovetail reconcile')
    assert publication_fingerprint(owner, "dovetail") != before

    typed(owner, finding.remedy)
    assert [finding.status for finding in findings(settings, checks_outbox.parts)] == ["ok"]
    assert publication_fingerprint(owner, "dovetail") == before


def test_a_child_that_inherits_after_init_fails_the_doctor_with_the_statement_and_is_another_publication(
    foreign: Settings, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(f"CREATE TABLE public.outboxevent ({COLUMNS})")
    run_init(foreign)
    before = publication_fingerprint(owner, foreign.outbox.publication)
    owner.execute("CREATE TABLE public.child () INHERITS (public.outboxevent)")

    (finding,) = findings(foreign, checks_outbox.parts)
    assert finding.status == "fail"
    assert finding.found == "public.child inherits from public.outboxevent: rows in it are never published"
    assert finding.remedy.startswith('ALTER TABLE "public"."child" NO INHERIT "public"."outboxevent"; then dovetail')
    assert publication_fingerprint(owner, foreign.outbox.publication) != before
    with pytest.raises(Misconfigured, match=r"public\.child inherits"):
        run_init(foreign)

    typed(owner, finding.remedy)
    assert publication_fingerprint(owner, foreign.outbox.publication) == before


def test_a_child_that_inherits_before_init_is_refused_and_nothing_is_made(
    database: Endpoints, foreign: Settings, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(f"CREATE TABLE public.outboxevent ({COLUMNS})")
    owner.execute("CREATE TABLE public.child () INHERITS (public.outboxevent)")
    with pytest.raises(Misconfigured, match=r"public\.child inherits") as caught:
        run_init(foreign)
    assert owner.execute("SELECT count(*) FROM pg_publication_rel").fetchone() == (1,)  # that of Dovetail's own table
    typed(owner, caught.value.remedy)
    assert states(run_init(foreign))["publication dovetail_outboxevent"] == "done"


def test_partitions_come_and_go_without_being_another_publication_but_not_an_unlogged_one(
    foreign: Settings, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(f"CREATE TABLE public.outboxevent ({COLUMNS}) PARTITION BY LIST (aggregatetype)")
    run_init(foreign)
    before = publication_fingerprint(owner, foreign.outbox.publication)
    owner.execute("CREATE TABLE public.a PARTITION OF public.outboxevent FOR VALUES IN ('a') PARTITION BY HASH (id)")
    owner.execute("CREATE TABLE public.a0 PARTITION OF public.a FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    assert publication_fingerprint(owner, foreign.outbox.publication) == before
    owner.execute("CREATE UNLOGGED TABLE public.b PARTITION OF public.outboxevent FOR VALUES IN ('b')")
    assert publication_fingerprint(owner, foreign.outbox.publication) != before
    (finding,) = findings(foreign, checks_outbox.parts)
    assert finding.remedy.startswith('ALTER TABLE "public"."b" SET LOGGED')


def test_an_init_of_the_relays_role_alone_finds_that_the_publication_is_another(
    database: Endpoints, owner: psycopg.Connection[Any]
) -> None:
    settings = settings_of(database)
    run_init(settings)
    owner.execute("ALTER TABLE dovetail.outbox_0 SET UNLOGGED")
    environ = database.environment() | {"DOVETAIL_RELAY__NAME": settings.relay.name}
    del environ["DOVETAIL_POSTGRES__OWNER_DSN"]
    with pytest.raises(PublicationChanged):
        run_init(settings_of(database, environ))


def page_sql() -> str:
    """The trigger that the page shows."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "from-debezium.md"
    return page.read_text("utf-8").split("```sql\n")[-1].split("```", maxsplit=1)[0]


def test_a_partitioned_table_is_warned_of_and_the_pages_trigger_refuses_what_would_be_published_twice(
    foreign: Settings, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(f"CREATE TABLE public.outboxevent ({COLUMNS}, created_at date) PARTITION BY RANGE (created_at)")
    owner.execute(
        "CREATE TABLE public.p1 PARTITION OF public.outboxevent FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
    )
    owner.execute(
        "CREATE TABLE public.p2 PARTITION OF public.outboxevent FOR VALUES FROM ('2020-02-01') TO ('2020-03-01')"
    )
    problem = (
        "public.outboxevent is partitioned by RANGE (created_at): an UPDATE that moves a row is published as a second"
        " event"
    )
    for _ in range(2):
        (step,) = [step for step in run_init(foreign) if step.what == "UPDATEs of public.outboxevent"]
        assert (step.state, step.detail) == ("left", problem)
    (finding,) = findings(foreign, checks_outbox.moves)
    assert (finding.status, finding.check, finding.found) == ("warn", "dovetail.outbox_moves", problem)

    owner.execute(page_sql())  # type: ignore[arg-type]
    owner.execute("INSERT INTO public.outboxevent VALUES (gen_random_uuid(), 'a', 'k', 't', '{}', '2020-01-05')")
    owner.execute("UPDATE public.outboxevent SET payload = '[]', created_at = '2020-01-05'")
    with pytest.raises(psycopg.errors.RaiseException, match="stays in its partition"):
        owner.execute("UPDATE public.outboxevent SET created_at = '2020-02-05'")


def test_a_table_without_partitions_and_our_own_are_not_warned_of(
    database: Endpoints, foreign: Settings, owner: psycopg.Connection[Any]
) -> None:
    owner.execute(f"CREATE TABLE public.outboxevent ({COLUMNS})")
    assert all(step.state != "left" for step in run_init(foreign) if step.what.startswith("UPDATE"))
    assert findings(foreign, checks_outbox.moves) == []
    assert findings(settings_of(database), checks_outbox.moves) == []


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT INSERT ON dovetail.outbox TO dovetail_app, PUBLIC",
        "GRANT INSERT (xid) ON dovetail.outbox TO dovetail_app; GRANT INSERT ON dovetail.outbox TO PUBLIC",
    ],
)
def test_a_role_that_may_set_a_rows_xid_fails_the_doctor_with_the_statement(
    database: Endpoints, owner: psycopg.Connection[Any], grant: str
) -> None:
    settings = settings_of(database)
    run_init(settings)
    assert [finding.status for finding in findings(settings, checks_outbox.forgers)] == ["ok"]
    owner.execute(grant)  # type: ignore[arg-type]
    (finding,) = findings(settings, checks_outbox.forgers)
    assert (finding.status, finding.check) == ("fail", "dovetail.outbox_forgers")
    assert finding.found == "PUBLIC, dovetail_app may set xid, seq and bucket of dovetail.outbox"
    assert finding.remedy.startswith('REVOKE INSERT ON dovetail.outbox FROM PUBLIC, "dovetail_app"; then')
    typed(owner, finding.remedy)
    assert [finding.status for finding in findings(settings, checks_outbox.forgers)] == ["ok"]


@pytest.mark.parametrize(
    ("statement", "said", "remedy"),
    [
        (
            f"CREATE TABLE public.outboxevent ({COLUMNS.replace('aggregateid varchar(255)', 'aggregateid bigint')})",
            "column 'aggregateid' of public.outboxevent has the type bigint; allowed: text, varchar",
            "ALTER TABLE it, or name another column in [outbox.columns]; then dovetail init",
        ),
        (
            "CREATE TYPE public.kind AS ENUM ('order');"
            f" CREATE TABLE public.outboxevent ({COLUMNS.replace('type varchar(255)', 'type public.kind', 1)})",
            "column 'aggregatetype' of public.outboxevent has the type kind; allowed: text, varchar",
            "ALTER TABLE it, or name another column in [outbox.columns]; then dovetail init",
        ),
        (
            f"CREATE TABLE public.behind ({COLUMNS}); CREATE VIEW public.outboxevent AS SELECT * FROM public.behind",
            "public.outboxevent is a view; only a table, partitioned or not, is published",
            "set outbox.table to the table that the events are inserted into",
        ),
        (
            f"CREATE UNLOGGED TABLE public.outboxevent ({COLUMNS})",
            "public.outboxevent is not logged: rows in it are never published, and a crash empties it",
            'ALTER TABLE "public"."outboxevent" SET LOGGED; then dovetail init',
        ),
    ],
)
def test_a_table_that_cannot_be_an_outbox_is_refused_with_the_reason_in_words(
    foreign: Settings, owner: psycopg.Connection[Any], statement: str, said: str, remedy: str
) -> None:
    owner.execute(statement)  # type: ignore[arg-type]
    with pytest.raises((Misconfigured, OutboxAltered)) as caught:
        run_init(foreign)
    assert (str(caught.value), caught.value.remedy) == (said, remedy)
