"""An outbox of Debezium's layout, made by somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from dovetail_local.stack import Stack
from support.servers import fresh_database
from support.world import World, app

LAYOUT = """CREATE TABLE public.outboxevent (
    {id} uuid NOT NULL, {aggregatetype} varchar(255) NOT NULL, {aggregateid} varchar(255) NOT NULL,
    {type} varchar(255) NOT NULL, {payload} {kind}, created_at timestamp, version int
)"""
NAMES = {
    "id": "id",
    "aggregatetype": "aggregatetype",
    "aggregateid": "aggregateid",
    "type": "type",
    "payload": "payload",
}
RENAMED = {
    "id": "event_id", "aggregatetype": "aggregate type", "aggregateid": "aggregate_id", "type": "event_type",
    "payload": "body",
}  # fmt: skip


@contextmanager
def debezium(stack: Stack, kind: str, names: dict[str, str], **environ: str) -> Iterator[World]:
    """A world whose outbox is a table of Debezium's layout, made by somebody else."""
    columns = ",".join(f"{ours}={theirs}" for ours, theirs in names.items() if ours != theirs)
    if columns:
        environ["DOVETAIL_OUTBOX__COLUMNS"] = columns
    with fresh_database(stack) as endpoints:
        with psycopg.connect(endpoints.owner_dsn, autocommit=True) as owner:
            owner.execute(LAYOUT.format(kind=kind, **{ours: f'"{theirs}"' for ours, theirs in names.items()}))  # type: ignore[arg-type]
            owner.execute("GRANT INSERT ON public.outboxevent TO app")
        world = World(stack, endpoints, DOVETAIL_OUTBOX__TABLE="public.outboxevent", **environ)
        try:
            yield world
        finally:
            world.close()


def insert(world: World, names: dict[str, str], key: str, payload: Any) -> None:
    with app(world) as connection:
        listed = ", ".join(f'"{theirs}"' for theirs in names.values())
        connection.execute(
            f"INSERT INTO public.outboxevent ({listed}) VALUES (gen_random_uuid(), %s, %s, 'Placed', %s)",
            (world.aggregate, key, payload),
        )
