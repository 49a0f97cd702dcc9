"""Mistakes that a type checker must see: each line that is marked is one error, no other line is."""

from __future__ import annotations

from typing import Any

import psycopg

from dovetail.psycopg import Inbox, Outbox


def mistaken(conn: psycopg.Connection[Any], async_conn: psycopg.AsyncConnection[Any], message: Any) -> None:
    Outbox().publish(async_conn, object())  # error
    Outbox().publish(conn, object(), {"tenant": "acme"})  # error
    Outbox().publish(conn, object(), headers={"tenant": 1})  # error
    Inbox(types=[])  # error
    Inbox("shipping").receive(conn, "text")  # error
    with Inbox("shipping").receive(conn, message) as delivery:
        delivery.frehs  # error  # noqa: B018
