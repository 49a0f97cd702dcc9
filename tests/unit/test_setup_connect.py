"""What a refused statement means for the one who typed the command."""

from __future__ import annotations

import psycopg
import pytest

from dovetail_relay.config import load
from dovetail_relay.errors import Misconfigured
from dovetail_relay.setup.connect import named


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (psycopg.errors.UndefinedTable('relation "dovetail.parked" does not exist'), "dovetail init"),
        (psycopg.errors.InvalidSchemaName('schema "dovetail" does not exist'), "dovetail init"),
        (psycopg.errors.UndefinedTable('relation "shop.orders" does not exist'), "dovetail doctor"),
    ],
)
def test_what_init_makes_and_is_not_there_says_init(error: psycopg.Error, remedy: str) -> None:
    found = named(error, load(None, {}, needs=()), "operator")
    assert isinstance(found, Misconfigured)
    assert found.remedy == remedy
