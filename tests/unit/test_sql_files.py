"""The shipped SQL files form a set, and a broken set is refused by name."""

import hashlib

import pytest

from dovetail_schemas.errors import MigrationsInvalid
from dovetail_schemas.sql import arrange, migrations, queries, split


def test_every_query_that_the_sdk_runs_is_there_as_one_statement():
    for name in ("outbox_insert", "outbox_insert_many", "inbox_claim", "schema_insert", "schema_lasting"):
        assert ";" not in queries[name]
        assert "--" not in queries[name]
        assert name in queries
    assert set(queries) == {name for name, _ in queries.items()}
    with pytest.raises(KeyError):
        queries["no_such_query"]


def test_migrations_come_in_order_with_phase_and_checksum():
    first = migrations()[0]
    assert (first.version, first.phase, first.name) == (1, "pre", "outbox")
    assert first.checksum == hashlib.sha256(first.sql.encode()).hexdigest()
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_pre_a.sql", "0003_pre_b.sql"], r"without a gap; found \[1, 3\]"),
        (["0001_pre_a.sql", "0001_post_b.sql"], r"found \[1, 1\]"),
        (["0001_pre_a.sql", "2_pre_b.sql"], "'2_pre_b.sql' is not a migration"),
        (["0001_during_a.sql"], "is not a migration"),
    ],
)
def test_a_set_of_migrations_with_a_hole_or_an_odd_name_is_refused(names, message):
    with pytest.raises(MigrationsInvalid, match=message):
        arrange(dict.fromkeys(names, "SELECT 1"))


def test_a_query_file_comes_apart_at_its_names():
    text = "-- A file.\n\n-- name: one\n-- Does one.\nSELECT 1;\n\n-- name: two\n-- Does\n-- two.\nSELECT\n    2\n"
    assert split("x.sql", text) == {"one": "SELECT 1", "two": "SELECT\n    2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;\n-- name: a\n-- A.\nSELECT 1", "SQL before the first"),
        ("-- name: a\nSELECT 1", "needs a sentence of purpose"),
        ("-- name: a\n-- A.\n", "and a statement"),
        ("-- name: a\n-- A.\nSELECT 1\n-- name: a\n-- A.\nSELECT 2", "used twice"),
        ("-- name: A b\n-- A.\nSELECT 1", "SQL before|not a query name"),
        ("-- name: 1a\n-- A.\nSELECT 1", "not a query name"),
    ],
)
def test_a_query_file_that_breaks_the_form_is_refused(text, message):
    with pytest.raises(MigrationsInvalid, match=message):
        split("x.sql", text)
