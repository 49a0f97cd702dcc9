"""`dovetail slot`: a slot is seen, and dropped only by somebody who means it, while nobody uses it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import audited, run
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def test_a_slot_in_use_is_shown_with_its_pid_and_is_not_dropped(world: World) -> None:
    world.relay().wait_streaming()
    slot = world.settings().relay.slot
    shown = run(world, "slot", "show")
    assert (shown["slot_name"], shown["active"], shown["wal_status"]) == (slot, True, "reserved")
    said = run(world, "slot", "drop", "--slot", slot, "--yes", "--reason", "a test", code=1)
    assert "SLOT_ACTIVE" in said
    assert f"pid {shown['active_pid']}" in said
    assert said.count("\n") == 1
    assert run(world, "slot", "show")["slot_name"] == slot
    assert audited(world) == []


def test_a_slot_is_dropped_only_with_its_name_a_reason_and_a_yes_and_the_log_says_by_whom(world: World) -> None:
    relay = world.relay().wait_streaming()
    slot = world.settings().relay.slot
    relay.kill()
    wait_until(lambda: not world.slot_is_active(), 10, "the slot is let go")
    reason = ("--reason", "moved away")
    assert f"in full: {slot}" in run(world, "slot", "drop", "--slot", slot[:-1], "--yes", *reason, code=2)
    assert f"in full: {slot}" in run(world, "slot", "drop", "--yes", *reason, code=2)
    assert "--reason" in run(world, "slot", "drop", "--slot", slot, "--yes", code=2)
    assert "--yes" in run(world, "slot", "drop", "--slot", slot, *reason, code=2)
    assert run(world, "slot", "show")["active"] is False
    run(world, "slot", "drop", "--slot", slot, "--yes", *reason)
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        entries = connection.execute(
            "SELECT actor, action, target, reason, before ->> 'slot_name' FROM dovetail.audit_log ORDER BY seq"
        ).fetchall()
    assert entries == [
        ("operator", "slot_drop.asked", f"slot {slot}", "moved away", slot),
        ("operator", "slot_drop.done", f"slot {slot}", "moved away", None),
    ]
    said = run(world, "slot", "show", code=5)
    assert ("NO_SLOT" in said, said.rstrip().endswith("next: dovetail recover")) == (True, True), said
    assert "NO_SLOT" in run(world, "slot", "drop", "--slot", slot, "--yes", *reason, code=5)
    world.relay().wait_for_log("relay_halted")
