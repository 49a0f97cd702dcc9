"""A table of Debezium's layout, under its own name, through a real relay to a plain reader."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from dovetail_local.stack import Stack
from dovetail_relay.setup.checks import examine
from dovetail_relay.setup.install import Plan, install
from support.operator import run
from support.own_table import NAMES, RENAMED, debezium, insert
from support.stuck import parked
from support.topic import headers, messages
from support.waiting import wait_until
from support.world import app, decoded
from support.writers import NUMBERED_SCHEMA, numbered


@pytest.mark.parametrize(
    ("kind", "payload", "value", "names"),
    [
        ("jsonb", '{"b":1,  "a": "ü"}', '{"a": "ü", "b": 1}', NAMES),
        ("json", '{"b":1,  "a": "ü"}', '{"b":1,  "a": "ü"}', NAMES),
        ("text", "not even JSON", "not even JSON", NAMES),
        ("bytea", b"\x01\x00\xff", None, NAMES),
        ("jsonb", '{"b":1,  "a": "ü"}', '{"a": "ü", "b": 1}', RENAMED),
    ],
    ids=["jsonb", "json", "text", "bytea", "jsonb under other names"],
)
def test_a_table_of_debeziums_layout_is_taken_as_it_is(
    stack: Stack, kind: str, payload: Any, value: str | None, names: dict[str, str]
) -> None:
    with debezium(stack, kind, names, DOVETAIL_OUTBOX__HEADERS="debezium,cloudevents") as world:
        insert(world, names, "before", payload)
        steps = install(world.settings(), Plan(), lambda _: None, lambda _: None)
        lines = [step.line() for step in steps]
        assert "publication dovetail_outboxevent: done" in lines
        assert "rows of public.outboxevent from before the slot: left alone (published from now on only)" in lines
        assert {step.state for step in install(world.settings(), Plan(), lambda _: None, lambda _: None)} == {"there"}
        world.relay().wait_streaming()
        before = datetime.now(UTC)
        insert(world, names, "k", payload)
        (message,) = messages(world.endpoints.bootstrap_servers, world.topic, 1)
        found = headers(message)
        assert message.key() == b"k"
        assert message.value() == (payload if value is None else value.encode())
        assert (found["type"], found["eventType"]) == ("Placed", "Placed")
        assert found["content-type"] == ("application/octet-stream" if kind == "bytea" else "application/json")
        assert abs(datetime.fromisoformat(found["time"]) - before) < timedelta(minutes=1)
        findings = {finding.check: finding for finding in examine(world.settings())}
        assert not [finding for finding in findings.values() if finding.status == "fail"]
        assert findings["postgres.operator_outbox_rights"].remedy == (
            'GRANT SELECT ON "public"."outboxevent" TO "operator"'
        )


def test_an_event_without_a_payload_is_a_tombstone_and_one_without_a_key_is_parked(stack: Stack) -> None:
    with debezium(stack, "jsonb", NAMES) as world:
        with psycopg.connect(world.endpoints.owner_dsn) as owner:
            owner.execute("ALTER TABLE public.outboxevent ALTER aggregateid DROP NOT NULL")
        install(world.settings(), Plan(), lambda _: None, lambda _: None)
        insert(world, NAMES, "k", None)
        relay = world.relay().wait_streaming()
        (message,) = messages(world.endpoints.bootstrap_servers, world.topic, 1)
        assert message.value() is None
        insert(world, NAMES, None, "{}")  # type: ignore[arg-type]
        wait_until(lambda: relay.has_logged("message_stuck"), 30, "it is parked")
        assert any(line.get("reason") == "null" for line in relay.events())


def test_a_row_of_another_table_can_be_avro_where_it_says_by_which_schema(stack: Stack) -> None:
    with debezium(stack, "jsonb", NAMES) as world:
        with psycopg.connect(world.endpoints.owner_dsn) as owner:
            owner.execute("ALTER TABLE public.outboxevent ADD schema_fingerprint bytea")
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__VALUE"] = "avro"
        world.install()
        world.relay().wait_streaming()
        event = numbered(world.aggregate)
        with app(world) as connection:
            connection.execute(
                "INSERT INTO public.outboxevent (id, aggregatetype, aggregateid, type, payload, schema_fingerprint)"
                " VALUES (gen_random_uuid(), %s, 'k', 'Numbered', %s, %s)",
                (world.aggregate, json.dumps({"key": "k", "number": 3}), event.fingerprint),
            )
        (message,) = messages(world.endpoints.bootstrap_servers, world.topic, 1)
        assert decoded(world, message) == {"key": "k", "number": 3}
        assert event.codec.name == NUMBERED_SCHEMA["name"]


def test_a_key_longer_than_an_index_entry_holds_its_queue_like_any_other(stack: Stack) -> None:
    long, other = secrets.token_hex(3000), secrets.token_hex(3000)
    with debezium(stack, "jsonb", NAMES) as world:
        with psycopg.connect(world.endpoints.owner_dsn) as owner:
            owner.execute("ALTER TABLE public.outboxevent ALTER aggregateid TYPE text, ALTER aggregatetype TYPE text")
        world.install()
        world.relay().wait_streaming()
        insert(world, NAMES, long, json.dumps({"large": "x" * 2_000_000}))
        insert(world, NAMES, long, "{}")
        insert(world, NAMES, other, "{}")
        messages(world.endpoints.bootstrap_servers, world.topic, 1)
        assert [reason for _, reason in parked(world)] == ["refused", "behind"]
        assert run(world, "stuck", "discard", "--class", "refused", "--yes", "--reason", "a test")["discarded"] == 1
        found = messages(world.endpoints.bootstrap_servers, world.topic, 2)
        assert sorted(message.key() for message in found) == sorted([long.encode(), other.encode()])
