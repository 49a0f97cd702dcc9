"""`dovetail audit`: what operators did, and the head of the chain in Kafka that finds an owner who rewrote it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import submit
from support.operator import dovetail, dovetail_json
from support.waiting import wait_until
from support.world import World, new_world

REWRITE = """
DO $$ DECLARE last bytea := decode(repeat('00', 32), 'hex'); row dovetail.audit_log; BEGIN
    FOR row IN SELECT * FROM dovetail.audit_log ORDER BY seq LOOP
        row.reason := 'something harmless';
        row.prev_hash := last;
        last := sha256(dovetail.audit_bytes(row));
        UPDATE dovetail.audit_log SET reason = row.reason, prev_hash = row.prev_hash, hash = last WHERE seq = row.seq;
    END LOOP;
END $$
"""


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def test_a_chain_that_was_computed_anew_is_found_by_what_kafka_knows(world: World) -> None:
    code, _, err = dovetail(world, "audit", "list")
    assert (code, "NO_ENTRY" in err) == (5, True)
    submit(world.settings(), "recover", {}, reason="ü, and \x1b[31mred")
    with world.writers(count=1):
        relay = world.relay().wait_streaming()
        listed = dovetail_json(world, "audit", "list", "--action", "recover", "--limit", "9")
        assert [entry["action"] for entry in listed] == ["recover.failed", "recover.asked"]
        assert {entry["actor"] for entry in listed} == {"operator", "relay"}
        anchored = lambda: dovetail_json(world, "audit", "verify")["anchor"]  # noqa: E731
        wait_until(lambda: (anchored() or [0])[0] == 2, 30, "the checkpoint carries the head")
    code, out, _ = dovetail(world, "audit", "list", "--actor", "operator")
    assert (code, "\x1b" in out, "\\x1b[31mred" in out) == (0, False, True)
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as owner:
        owner.execute("ALTER TABLE dovetail.audit_log DISABLE TRIGGER USER")
        owner.execute(REWRITE)
    # A relay that goes on does not take the new head for the old one.
    relay.wait_for_log("audit_rewritten")
    code, out, err = dovetail(world, "audit", "verify")
    assert code == 4, out + err
    assert "AUDIT_BROKEN: entry 2: the checkpoint in Kafka carries another hash" in err
