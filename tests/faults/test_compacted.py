"""Topics that keep the newest record of each key only: what was the newest stays the newest, whatever is recovered."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import submit
from support.losses import checkpoint_lost, set_topic, slot_dropped
from support.operator import dovetail, dovetail_json
from support.stuck import out, write
from support.waiting import wait_until
from support.world import World, new_world

LAST = 20
Loss = Callable[[World, None], str]


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="1") as made:
        for name, value in (
            ("cleanup.policy", "compact"), ("segment.ms", "200"), ("min.cleanable.dirty.ratio", "0.0"),
            ("delete.retention.ms", "0"), ("max.compaction.lag.ms", "500"), ("min.compaction.lag.ms", "0"),
        ):  # fmt: skip
            set_topic(made, name, value)
        yield made


def of_key(world: World, key: str) -> list[int]:
    return [seen.number for seen in world.read_topic() if seen.key == key]


def compacted(world: World) -> None:
    """Events of one key, until only the newest is left; what else is written begins a new segment of its partition."""
    for number in range(1, LAST + 1):
        write(world, ("a", number))

    def is_so() -> bool:
        write(world, *[(f"other-{number}", 1) for number in range(12)])
        return of_key(world, "a") == [LAST]

    wait_until(is_so, 90, "it is compacted")


def recovered(world: World) -> None:
    def done() -> bool:
        with psycopg.connect(world.endpoints.owner_dsn) as connection:
            return connection.execute("SELECT state FROM dovetail.command").fetchall() == [("done",)]

    world.relay().wait_streaming()
    wait_until(done, 40, f"it is done:\n{world.relays[-1].log()[-2000:]}")


@pytest.mark.parametrize("loss", [checkpoint_lost, slot_dropped])
def test_a_recovery_hides_no_newest_event_behind_an_older_one(world: World, loss: Loss) -> None:
    relay = world.relay().wait_streaming()
    compacted(world)
    relay.kill()
    loss(world, None)
    plan = dovetail_json(world, "recover", "--dry-run")
    before = {seen.event_id for seen in world.read_topic()}
    submit(world.settings(), "recover", {"new_epoch": False}, reason="a test")
    recovered(world)
    assert of_key(world, "a")[-1] == LAST
    again = [seen.event_id for seen in world.read_topic()]
    assert set(plan["missing_ids"]) <= {*again, *before}, "what was to go out has"
    if loss is checkpoint_lost:
        assert plan["missing"] >= LAST, "nobody knows that the older ones were out, and the newest goes behind them"


def test_a_recovery_that_dies_between_an_older_event_and_the_newest_comes_to_the_newest(world: World) -> None:
    relay = world.relay().wait_streaming()
    compacted(world)
    relay.kill()
    checkpoint_lost(world, None)  # type: ignore[arg-type]
    submit(world.settings(), "recover", {"new_epoch": False}, reason="a test")
    killed = world.relay("-m", "dovetail_relay.crash", "confirmed", "5")
    assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
    assert LAST in of_key(world, "a")
    assert of_key(world, "a")[-1] < LAST, "it died when an older one was the newest"
    recovered(world)
    assert of_key(world, "a")[-1] == LAST
    assert len(out(world)) >= 1
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM dovetail.recovery_key").fetchone() == (0,)


def test_reconcile_knows_that_compaction_leaves_the_newest_of_each_key(world: World) -> None:
    world.relay("-m", "support.planted", "loses_an_event").wait_streaming()
    written = write(world, *[(f"k-{number}", number) for number in range(130)])
    wait_until(lambda: len(out(world)) == 129, 30, "all but one are out")
    (lost,) = set(written) - {seen.event_id for seen in world.read_topic()}

    def settled() -> bool:
        write(world, ("later", 1))
        return dovetail(world, "reconcile")[0] != 0

    wait_until(settled, 60, "the checkpoint's horizon has come so far")
    found = dovetail_json(world, "reconcile", code=4)
    assert [event["id"] for event in found["events"] if event["what"] == "missing"] == [lost]
    assert not found["balanced"]


def test_reconcile_and_the_live_books_find_nothing_wrong_with_what_compaction_took_away(world: World) -> None:
    relay = world.relay("-m", "support.hasty").wait_streaming()
    compacted(world)
    wait_until(lambda: relay.metric("dovetail_books_balanced") == 1, 60, "the books are balanced")
    found = dovetail_json(world, "reconcile")
    assert found["balanced"]
    assert not relay.has_logged("books_unbalanced")
