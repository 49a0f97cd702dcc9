"""A service as a user types it: the public SDK, checked by mypy --strict and by pyright. It is never run."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, assert_type
from uuid import UUID

import psycopg

import dovetail
from dovetail import errors
from dovetail.inbox import Delivery
from dovetail.kafka import Consumer
from dovetail.psycopg import AsyncInbox, AsyncOutbox, Inbox, Outbox, connect
from dovetail.registry import DatabaseSchemas, HttpSchemas


@dovetail.event("OrderPlaced", aggregate="order", key="order_id")
@dataclass
class OrderPlaced:
    order_id: int
    amount: Annotated[Decimal, dovetail.Decimal(12, 2)]


REFUNDED = dovetail.EventType.from_avsc(
    {"type": "record", "name": "Refunded", "fields": [{"name": "order_id", "type": "long"}]},
    aggregate="order",
    key=lambda payload: payload["order_id"],
)


def place(conn: psycopg.Connection[tuple[Any, ...]], order_id: int) -> UUID:
    outbox = Outbox()
    dovetail.register(conn, OrderPlaced, REFUNDED)
    placed = OrderPlaced(order_id, Decimal("9.90"))
    # The decorator leaves the class as it was.
    assert_type(placed, OrderPlaced)
    assert_type(placed.order_id, int)
    try:
        with conn.transaction():
            event_id = outbox.publish(conn, placed, headers={"tenant": "acme"})
            assert_type(event_id, UUID)
            assert_type(outbox.publish_many(conn, [placed, REFUNDED({"order_id": order_id})]), list[UUID])
            return event_id
    except errors.OutboxNotInTransaction as error:
        raise RuntimeError(str(error)) from error


async def place_async(conn: psycopg.AsyncConnection[tuple[Any, ...]], order_id: int) -> UUID:
    await dovetail.aregister(conn, OrderPlaced)
    async with conn.transaction():
        return await AsyncOutbox().publish(conn, OrderPlaced(order_id, Decimal(1)))


def ship(conn: psycopg.Connection[Any], delivery: Delivery) -> None:
    assert_type(delivery.fresh, bool)
    assert_type(delivery.id, UUID)
    assert_type(delivery.key, str | None)
    assert_type(delivery.time, dt.datetime)
    conn.execute("INSERT INTO shipment (order_id) VALUES (%s)", (delivery.event.order_id,))


def receive(conn: psycopg.Connection[Any], message: Any) -> None:
    inbox = Inbox("shipping", types=[OrderPlaced], schemas=DatabaseSchemas(lambda: psycopg.connect("dbname=shop")))
    with conn.transaction(), inbox.receive(conn, message) as delivery:
        assert_type(delivery, Delivery)
        if delivery.fresh:
            ship(conn, delivery)


async def receive_async(conn: psycopg.AsyncConnection[Any], message: Any) -> None:
    inbox = AsyncInbox("shipping", types=[OrderPlaced])
    async with conn.transaction(), inbox.receive(conn, message) as delivery:
        assert_type(delivery.fresh, bool)


shipping = Consumer(consumer="shipping")


@shipping.on(OrderPlaced, REFUNDED)
def ship_one(conn: psycopg.Connection[Any], delivery: Delivery) -> int:
    ship(conn, delivery)
    return 1


def run_from_the_environment(delivery: Delivery) -> None:
    with connect() as conn:
        # The decorator leaves the function as it was.
        assert_type(ship_one(conn, delivery), int)
    shipping.run()


def run() -> None:
    Consumer(
        "localhost:9092",
        consumer="shipping",
        topics=["outbox.event.order"],
        database="dbname=shop",
        handler=ship,
        types=[OrderPlaced],
        schemas=HttpSchemas("http://relay:8080"),
    ).run()
