"""`dovetail recover`: whatever was lost, every committed event is in its topic once, in the order of its key."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dovetail.psycopg import Outbox
from dovetail_local.stack import Stack
from dovetail_relay.crash import RECOVERY_STEPS
from dovetail_relay.operate.commands import follow, submit
from dovetail_relay.operate.diagnosis import diagnose
from dovetail_relay.operate.outlook import outlook
from support.losses import (
    checkpoint_lost,
    checkpoint_overwritten,
    delete_records,
    diverged,
    invalidated,
    set_topic,
    slot_advanced,
    slot_dropped,
    slot_made_again,
    superuser,
)
from support.operator import Command, dovetail, dovetail_json, run
from support.stuck import out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world
from support.writers import Writers, numbered


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def more(writers: Writers, count: int) -> None:
    """Until the writers have done `count` more."""
    wanted = writers.tally.transactions + count
    wait_until(lambda: writers.tally.transactions >= wanted, 30, f"{count} more transactions are done")


def has_run(world: World, writers: Writers, count: int = 15) -> None:
    """A relay has published something, and is gone."""
    relay = world.relay().wait_streaming()
    more(writers, count)
    wait_until(lambda: relay.metric("dovetail_events_published_total") > 0, 20, "something is published")
    relay.kill()


def balanced(world: World, writers: Writers) -> None:
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    assert books.ok, str(books)
    assert books.committed == books.published > 0


def positions_grow(world: World) -> None:
    """Positions of one relay only ever grow, partition by partition."""
    for positions in world.positions().values():
        assert positions == sorted(positions)


def executed(world: World, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[arg-type]


def is_pending(world: World) -> bool:
    return bool(executed(world, "SELECT FROM dovetail.command WHERE state = 'pending'"))


def asked(world: World, *, new_epoch: bool = False) -> int:
    """Asked for while no relay runs: the next one that leads takes it up."""
    return submit(world.settings(), "recover", {"new_epoch": new_epoch}, reason="made on purpose").id


def settled(world: World, command_id: int, state: str = "done") -> dict[str, Any]:
    """The command's progress and outcome, once it has ended as it should."""
    end = follow(world.settings(), command_id, lambda _text: None)
    assert end.state == state, end
    return {**end.progress, "outcome": end.outcome}


@pytest.mark.parametrize(
    "loss", [slot_dropped, slot_made_again, slot_advanced, invalidated, checkpoint_lost, checkpoint_overwritten]
)
def test_what_a_loss_left_unpublished_is_published_once_and_in_order(
    world: World, loss: Callable[[World, Writers], str]
) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        halt = loss(world, writers)
        more(writers, 15)
        seen = diagnose(world.settings())
        assert seen.halt is not None
        assert seen.halt.name == halt
        command = asked(world)
        relay = world.relay().wait_streaming()
        assert settled(world, command)["missing"] >= 15
        more(writers, 15)
    balanced(world, writers)
    assert executed(world, "SELECT epoch, recovery_horizon, recovery_command FROM dovetail.relay") == [(2, None, None)]
    assert executed(world, "SELECT count(*) FROM dovetail.recovery_seen") == [(0,)]
    audited = executed(world, "SELECT actor, action, after ->> 'command' FROM dovetail.audit_log ORDER BY seq")
    assert audited == [("operator", "recover.asked", str(command)), ("relay", "recover.done", str(command))]
    assert relay.get("/readyz")[0] == 200


def test_a_halted_relay_is_told_to_recover_and_the_way_there_is_shown(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        slot_dropped(world, writers)
        more(writers, 15)
        relay = world.relay().wait_for_log("relay_halted")
        code, out, err = dovetail(world, "recover", "--yes", "--reason", "x")
        assert code == 0, out + err
        assert "running" in err
        assert re.search(r"^outcome +published \d+ missing of \d+ rows looked at, in epoch 2$", out, re.MULTILINE), out
        relay.wait_streaming()
    balanced(world, writers)
    taken = [line for line in relay.events() if line["event"] == "command_taken"]
    assert [line["message"] for line in taken] == ["recover, asked for by operator"]


def test_delivery_at_least_once_recovers_without_a_duplicate_too(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__MODE="at_least_once") as world:
        with world.writers() as writers:
            relay = world.relay().wait_streaming()
            more(writers, 15)
            assert relay.terminate() == 0
            slot_dropped(world, writers)
            more(writers, 15)
            command = asked(world)
            world.relay().wait_streaming()
            settled(world, command)
        balanced(world, writers)


def test_a_slot_lost_before_the_first_start_loses_nothing_either(world: World) -> None:
    with world.writers() as writers:
        more(writers, 10)
        slot_made_again(world, writers)
        command = asked(world)
        world.relay().wait_streaming()
        settled(world, command)
    balanced(world, writers)


# -- crashes ----------------------------------------------------------------------------------------------------------

KILLED_AT = (*RECOVERY_STEPS, "admitted", "half", "committed", "confirmed")


def test_a_recovery_goes_on_wherever_its_leader_is_killed(stack: Stack) -> None:
    # Small batches: the backfill itself is killed in its middle too.
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="20") as world:
        with world.writers() as writers:
            has_run(world, writers)
            slot_dropped(world, writers)
            more(writers, 60)
            command = asked(world)
            for step in KILLED_AT:
                killed = world.relay("-m", "dovetail_relay.crash", step, "1")
                ended = killed.wait_ended()
                assert ended == -signal.SIGKILL, f"{step}: {killed.log()[-2000:]}"
            survivor = world.relay().wait_streaming()
            settled(world, command)
        balanced(world, writers)
        positions_grow(world)
        done = executed(world, "SELECT count(*) FROM dovetail.audit_log WHERE action = 'recover.done'")
        assert done == [(1,)]
        assert "recovery_started" not in survivor.log()


def test_a_slot_that_is_lost_again_during_the_recovery_is_recovered_by_the_same_command(stack: Stack) -> None:
    with new_world(stack, DOVETAIL_DELIVERY__BATCH_ROWS="20") as world:
        with world.writers() as writers:
            has_run(world, writers)
            slot_dropped(world, writers)
            more(writers, 60)
            command = asked(world)
            for _ in range(2):
                killed = world.relay("-m", "dovetail_relay.crash", "confirmed", "2")
                assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
                slot_dropped(world, writers)
                more(writers, 5)
            world.relay().wait_streaming()
            settled(world, command)
        balanced(world, writers)
        positions_grow(world)
        assert executed(world, "SELECT epoch FROM dovetail.relay") == [(4,)]


# -- what an operator sees --------------------------------------------------------------------------------------------


def test_the_dry_run_names_exactly_what_the_recovery_then_publishes(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        slot_dropped(world, writers)
        more(writers, 15)
    published = {event.event_id for event in world.read_topic()}
    missing = [event.event_id for event in world.table() if event.event_id not in published]
    seen = dovetail_json(world, "recover", "--dry-run")
    assert (seen["halt"], seen["missing"], seen["missing_ids"]) == ("SLOT_LOST", len(missing), missing)
    assert seen["rows"] - seen["published"] == seen["missing"]
    assert (seen["unknown"], seen["parked"], seen["phantoms"]) == ([], 0, seen["phantoms"])
    assert executed(world, "SELECT count(*) FROM dovetail.command") == [(0,)]
    # Nothing is done without a yes.
    code, _, err = dovetail(world, "recover", "--reason", "x")
    assert (code, "--yes" in err) == (2, True)
    command = asked(world)
    world.relay()
    assert settled(world, command)["missing"] == len(missing)
    balanced(world, writers)


def test_what_cannot_be_known_is_said(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        checkpoint_lost(world, writers)
    set_topic(world, "cleanup.policy", "compact")
    seen = outlook(world.settings(), diagnose(world.settings()))
    assert seen.horizon == 0
    assert [text for text in seen.unknown if "is compacted" in text or "without a checkpoint" in text] == seen.unknown
    assert len(seen.unknown) == 2
    set_topic(world, "cleanup.policy", "delete")
    delete_records(world)
    seen = outlook(world.settings(), diagnose(world.settings()))
    assert any("no longer reaches back" in text for text in seen.unknown)
    # Without a checkpoint what is parked is judged again: the outcome would count it otherwise than this look.
    executed(
        world,
        "INSERT INTO dovetail.parked (relay, epoch, commit_lsn, index, hold_topic, hold_key, reason, message, state,"
        " id, aggregatetype, aggregateid, type, encoding, headers, created_us)"
        " SELECT r.name, 1, '0/1', 1, 't', '', 'r', 'm', 'parked', o.id, o.aggregatetype, o.aggregateid, o.type,"
        " o.encoding, jsonb_send(o.headers), 0 FROM dovetail.relay AS r, dovetail.outbox AS o LIMIT 1"
        " RETURNING id",
    )
    seen = outlook(world.settings(), diagnose(world.settings()))
    assert (seen.held["parked"], any("the recovery judges them anew" in text for text in seen.unknown)) == (1, True)


def test_nothing_is_recovered_where_nothing_is_lost(world: World) -> None:
    relay = world.relay().wait_streaming()
    for argument, name in (("--yes", "NOT_HALTED"), ("--follow", "NOTHING_UNDER_WAY")):
        code, _, err = dovetail(world, "recover", argument)
        assert (code, name in err) == (5, True), err
    # One that slips through is refused by the relay itself.
    assert settled(world, asked(world), "failed")["outcome"] == "nothing to do: the relay is not halted"
    assert relay.get("/readyz")[0] == 200


def test_a_second_operator_waits_for_the_first_who_may_withdraw(world: World) -> None:
    relay = world.relay().wait_streaming()
    relay.kill()
    with world.writers() as writers:
        slot_dropped(world, writers)
    first = Command(world, "recover", "--yes", "--reason", "x")
    wait_until(lambda: is_pending(world), 20, "the command is written")
    code, _, err = dovetail(world, "recover", "--yes", "--reason", "x")
    assert code == 1
    assert re.search(r"COMMAND_UNDER_WAY: command \d+ \(recover\) of operator, pending since 20", err), err
    first.interrupt()
    code, _, err = first.end()
    assert code == 130
    assert "withdrawn; nothing was done" in err
    assert executed(world, "SELECT state FROM dovetail.command") == [("withdrawn",)]
    actions = [action for (action,) in executed(world, "SELECT action FROM dovetail.audit_log ORDER BY seq")]
    assert actions == ["recover.asked", "recover.withdraw"]


def test_another_server_needs_a_new_epoch_and_what_it_lost_is_named(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        gone = world.read_topic()[-1].event_id
        diverged(world, writers)
        executed(world, f"DELETE FROM dovetail.outbox WHERE id = '{gone}' RETURNING id")
        more(writers, 15)
        code, _, err = dovetail(world, "recover", "--yes", "--reason", "x")
        assert (code, "--new-epoch" in err) == (2, True), err
        command = asked(world, new_epoch=True)
        world.relay().wait_streaming()
        end = settled(world, command)
        assert end["phantom_ids"] == [gone]
        assert f"1 events in the topics have no row here and cannot be unpublished: {gone}" in end["outcome"]
    world.wait_until_published()
    books = world.books(writers.tally.rolled_back_ids)
    assert (books.lost, books.duplicated, books.phantom, books.out_of_order) == ((), (), (gone,), ())
    positions_grow(world)


def test_a_lost_slot_does_not_hide_that_the_server_is_another_one(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        slot_dropped(world, writers)
        diverged(world, writers)
    command = asked(world)
    world.relay()
    assert "next: dovetail recover --new-epoch" in settled(world, command, "failed")["outcome"]


def test_a_strangers_slot_of_the_same_name_is_not_dropped(world: World) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        slot_dropped(world, writers)
    slot = world.settings().relay.slot
    superuser(world, f"SELECT pg_create_physical_replication_slot('{slot}')")
    try:
        operator = Command(world, "recover", "--yes", "--reason", "x")
        wait_until(lambda: is_pending(world), 20, "the command is written")
        world.relay()
        code, _, err = operator.end()
        assert (code, "COMMAND_FAILED" in err, "somebody else's" in err) == (1, True, True), err
    finally:
        superuser(world, f"SELECT pg_drop_replication_slot('{slot}')")


@pytest.mark.parametrize("kills", [0, 2])
def test_whoever_holds_up_the_new_slot_is_named_and_what_they_wrote_streams(world: World, kills: int) -> None:
    with world.writers() as writers:
        has_run(world, writers)
        slot_dropped(world, writers)
        with psycopg.connect(world.endpoints.app_dsn, application_name="a-slow-service") as slow:
            Outbox().publish(slow, numbered(world.aggregate)({"key": "slow", "number": 1}))
            command = asked(world)
            for _ in range(kills):
                world.relay().wait_for_log("retrying").kill()
            relay = world.relay().wait_for_log("retrying")
            assert "a-slow-service" in relay.log()
            slow.commit()
        relay.wait_streaming()
        settled(world, command)
    balanced(world, writers)


def test_a_held_key_keeps_its_order_and_a_dead_letter_is_published_once(stack: Stack) -> None:
    with new_world(stack) as world:
        relay = world.relay().wait_streaming()
        write(world, ("a", 1), ("b", 1))
        write_unencodable(world, "a")
        write(world, ("a", 2))
        wait_until(lambda: len(parked(world)) == 2, 20, "two wait")
        relay.terminate()
        slot_dropped(world)
        write(world, ("a", 3), ("b", 2))
        command = asked(world)
        world.relay().wait_streaming()
        assert settled(world, command)["missing"] == 2
        # What is new of the held key has joined its queue.
        assert parked(world) == [("a", "schema"), ("a", "behind"), ("a", "behind")]
        assert out(world) == [("a", 1), ("b", 1), ("b", 2)]


def test_a_message_that_halts_a_recovery_is_shown_and_can_be_passed_over(stack: Stack) -> None:
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
        relay = world.relay().wait_streaming()
        write(world, ("a", 1))
        wait_until(lambda: out(world) == [("a", 1)], 20, "the first is out")
        relay.terminate()
        slot_dropped(world)
        write(world, ("a", 2))
        hopeless = write_unencodable(world, "a")
        write(world, ("a", 3))
        command = asked(world)
        relay = world.relay()
        wait_until(lambda: relay.log().count("POISON_HELD"), 30, f"it halts:\n{relay.log()[-1500:]}")
        shown = run(world, "stuck", "show")
        assert (shown["id"], shown["state"]) == (hopeless, "halting")
        done = run(world, "stuck", "discard", "--id", hopeless, "--yes", "--reason", "a test")
        assert "discarded 1" in done["outcome"]
        settled(world, command)
        wait_until(lambda: out(world) == [("a", 1), ("a", 2), ("a", 3)], 30, "the rest is out, once")


def test_a_command_that_a_halt_keeps_waiting_says_by_which(stack: Stack) -> None:
    with new_world(stack) as world:
        world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
        relay = world.relay().wait_streaming()
        (event_id,) = write(world, ("a", 1))
        wait_until(lambda: out(world) == [("a", 1)], 20, "it is out")
        write_unencodable(world, "a")
        relay.wait_for_log("relay_halted")
        replay = Command(world, "replay", "--id", event_id, "--yes", "--reason", "a test")
        with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
            waits = "SELECT progress ->> 'waits_for' FROM dovetail.command WHERE kind = 'replay'"
            wait_until(
                lambda: "POISON_HELD" in str(connection.execute(waits).fetchone()), 30, "it is told what it waits for"
            )
        replay.interrupt()
        replay.end()
