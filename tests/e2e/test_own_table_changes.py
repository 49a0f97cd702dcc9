"""A published column of the user's own table is changed as docs/how-to/from-debezium.md says, and nothing is missed."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import dovetail
from support.servers import fresh_database
from support.topic import messages
from support.waiting import wait_until
from support.world import World, app

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-debezium.md"
TABLE = (
    "CREATE TABLE public.outboxevent (id uuid NOT NULL, aggregatetype varchar(255) NOT NULL,"
    " aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)"
)


def page_sql() -> str:
    section = PAGE.read_text("utf-8").split("## Changing a column that is published")[1]
    return section.split("```sql\n")[1].split("```", maxsplit=1)[0]


def insert(world: World, *keys: str) -> None:
    with app(world) as connection:
        for key in keys:
            connection.execute(
                "INSERT INTO public.outboxevent VALUES (gen_random_uuid(), %s, %s, 'Placed', '{}')",
                (world.aggregate, key),
            )


def test_a_column_is_changed_around_its_publication_and_every_row_goes_out_once(stack: Stack) -> None:
    with fresh_database(stack) as endpoints, psycopg.connect(endpoints.owner_dsn, autocommit=True) as owner:
        owner.execute(TABLE)
        owner.execute("GRANT INSERT ON public.outboxevent TO app")
        world = World(stack, endpoints, DOVETAIL_OUTBOX__TABLE="public.outboxevent")
        world.init()
        relay = world.relay().wait_streaming()
        insert(world, "before")
        for refused in ("ALTER COLUMN aggregateid TYPE text", "DROP COLUMN aggregateid"):
            with pytest.raises(psycopg.Error, match="publication"):
                owner.execute(f"ALTER TABLE public.outboxevent {refused}")
        owner.execute(page_sql())
        insert(world, "after")
        wait_until(lambda: relay.get("/readyz")[0] == 503, 20, "the relay halts")
        insert(world, "halted")
        code, out, err = dovetail(world, "relay", "accept", "--reason", "a wider key", "--yes")
        assert code == 0, out + err
        wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "the relay goes on")
        insert(world, "k" * 300)
        found = messages(endpoints.bootstrap_servers, world.topic, 4)
        assert sorted(message.key() for message in found) == [b"after", b"before", b"halted", b"k" * 300]
        world.close()
