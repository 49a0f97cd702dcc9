"""Dovetail for services: publish events in the transaction of your business rows, and take each event once.

@dovetail.event("OrderPlaced", aggregate="order", key="order_id")
@dataclass
class OrderPlaced:
    order_id: int
    amount: Annotated[decimal.Decimal, dovetail.Decimal(12, 2)]

dovetail.register(conn, OrderPlaced)            # once, at start-up

outbox = dovetail.psycopg.Outbox()
with conn.transaction():
    conn.execute("insert into orders …")
    outbox.publish(conn, OrderPlaced(42, decimal.Decimal("9.90")))
"""

from typing import Any

from dovetail import errors
from dovetail.errors import DovetailError
from dovetail.event import Event, EventType, event
from dovetail.ids import uuid7
from dovetail.shapes import Decimal, Int32

__all__ = [
    "Decimal",
    "DovetailError",
    "Event",
    "EventType",
    "Int32",
    "aregister",
    "errors",
    "event",
    "register",
    "uuid7",
]


def register(conn: Any, *types: Any) -> None:
    """Put the schemas of event types into the database of a psycopg connection; see `dovetail.psycopg.register`."""
    from dovetail import psycopg  # noqa: PLC0415 - a process that only defines events needs no driver

    psycopg.register(conn, *types)


async def aregister(conn: Any, *types: Any) -> None:
    """`register` for psycopg's AsyncConnection."""
    from dovetail import psycopg  # noqa: PLC0415

    await psycopg.aregister(conn, *types)
