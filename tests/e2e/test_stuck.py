"""`dovetail stuck`: what is held is seen, let go in order, or given up, once, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import audited, dovetail, release_and_pause, run, run_page
from support.stuck import cure, held_queue, order_of, out, parked, write, write_unencodable
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def test_a_release_publishes_the_queue_of_a_key_in_its_order_and_the_key_flows_again(world: World) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    seen = run(world, "status", code=4)
    assert {"messages": 4, "keys": 1, "standing_before": 0}.items() <= seen["stuck"].items()
    assert "STUCK_MESSAGE" in [problem["name"] for problem in seen["problems"]]
    listed = run(world, "stuck", "list")
    assert [(row["id"], row["reason"], row["waiting"]) for row in listed] == [(queue[0], "schema", 3)]
    assert "leads" not in listed[0], "what the query says for itself alone"
    shown = run(world, "stuck", "show")
    assert (shown["id"], shown["before_it"], shown["behind_it"]) == (queue[0], 0, 3)
    plan = run(world, "stuck", "release", "--key", "bad", "--dry-run")
    assert plan["publish_ids"] == queue
    assert len(parked(world)) == 4
    cure(world)
    done = run(world, "stuck", "release", "--key", "bad", "--yes", "--reason", "schema is there now")
    assert (done["state"], done["published"]) == ("done", 4)
    assert parked(world) == []
    (later,) = write(world, ("bad", 4))
    wait_until(lambda: order_of(world, "bad") == [*queue, later], 20, "all of the key is out, in order")


def test_a_release_whose_cause_is_still_there_changes_nothing_and_says_so(world: World) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    code, printed, said = dovetail(world, "stuck", "release", "--all", "--yes", "--reason", "x", "--output", "json")
    done = json.loads(printed)
    assert (code, done["state"], done["first_stuck"]) == (4, "done", queue[0])
    assert "still stuck 1" in done["outcome"]
    assert f"STILL_STUCK: 1 stuck with what is behind them; next: dovetail stuck show {queue[0]}" in said
    assert parked(world) == [("bad", "schema"), ("bad", "behind"), ("bad", "behind"), ("bad", "behind")]
    assert out(world) == [("good", 1)]


def test_a_discard_gives_up_the_message_and_publishes_what_was_behind_it(world: World) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    said = run(world, "stuck", "discard", "--id", queue[0], "--yes", code=2)
    assert "--reason" in said
    done = run(world, "stuck", "discard", "--id", queue[0], "--yes", "--reason", "a test event")
    assert (done["discarded"], done["published"]) == (1, 3)
    assert order_of(world, "bad") == queue[1:]
    assert parked(world) == []
    (kept,) = run(world, "stuck", "list", "--settled")
    assert (kept["id"], kept["state"]) == (queue[0], "discarded")


def test_a_message_behind_one_that_stays_can_be_discarded_too(world: World) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    done = run(world, "stuck", "discard", "--id", queue[2], "--yes", "--reason", "a test event")
    assert (done["discarded"], done.get("published", 0)) == (1, 0)
    assert parked(world) == [("bad", "schema"), ("bad", "behind"), ("bad", "behind")]
    cure(world)
    assert run(world, "stuck", "release", "--all", "--yes", "--reason", "x")["published"] == 3
    assert order_of(world, "bad") == [queue[0], queue[1], queue[3]]


def test_what_is_not_stuck_is_neither_released_nor_discarded(world: World) -> None:
    world.relay().wait_streaming()
    (event_id,) = write(world, ("good", 1))
    wait_until(lambda: out(world) == [("good", 1)], 20, "it is published")
    nobody = "00000000-0000-4000-8000-000000000001"
    for unknown in (event_id, nobody):
        said = run(world, "stuck", "discard", "--id", unknown, "--yes", "--reason", "x", code=5)
        assert "NOT_STUCK" in said
    assert "is not a UUID" in run(world, "stuck", "show", "no-uuid", code=2)
    assert "say which ones" in run(world, "stuck", "release", "--yes", code=2)


def test_with_halt_a_discarded_message_is_passed_over_and_the_relay_goes_on(world: World) -> None:
    halting = {f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK": "halt"}
    world.environ.update(halting)
    relay = world.relay().wait_streaming()
    event_id = write_unencodable(world, "bad")
    write(world, ("bad", 1), ("good", 1))
    wait_until(lambda: relay.has_logged("relay_halted"), 20, "it halts")
    assert out(world) == []
    done = run(world, "stuck", "discard", "--id", event_id, "--yes", "--reason", "a test event")
    assert done["state"] == "done"
    assert "discarded 1" in done["outcome"]
    wait_until(lambda: out(world) == [("bad", 1), ("good", 1)], 20, "what was behind it is out")


@pytest.mark.parametrize("step", ["begin", "produced", "checkpoint_flushed", "committed", "confirmed"])
def test_a_release_takes_effect_once_though_the_relay_is_killed_in_the_middle(world: World, step: str) -> None:
    first = world.relay().wait_streaming()
    queue = held_queue(world)
    first.terminate()
    cure(world)
    asked = subprocess.Popen(
        [sys.executable, "-m", "dovetail_relay", "stuck", "release", "--all", "--yes", "--reason", "x"],
        env={**os.environ, **world.environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
            wait_until(lambda: connection.execute("SELECT FROM dovetail.command").rowcount == 1, 20, "it is asked for")
        killed = world.relay("-m", "dovetail_relay.crash", step, "1")
        assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
        world.relay().wait_streaming()
        assert asked.wait(30) == 0
    finally:
        asked.kill()
        asked.wait()
    assert order_of(world, "bad") == queue
    assert parked(world) == []


def test_the_page_about_stuck_messages_works_as_it_stands(world: World) -> None:
    world.relay().wait_streaming()
    queue = held_queue(world)
    hopeless = write_unencodable(world, "hopeless")
    wait_until(lambda: len(parked(world)) == 5, 20, "both wait")
    cure(world)
    printed = run_page(world, "docs/how-to/stuck-messages.md", KEY="bad", HOPELESS=hopeless)
    assert hopeless in printed
    assert order_of(world, "bad") == queue
    assert parked(world) == []


def test_a_second_operator_is_refused_by_name_and_a_withdrawn_command_does_nothing(world: World) -> None:
    first = world.relay().wait_streaming()
    queue = held_queue(world)
    first.terminate()
    cure(world)
    asked = subprocess.Popen(
        [sys.executable, "-m", "dovetail_relay", "stuck", "release", "--all", "--yes", "--reason", "x"],
        env={**os.environ, **world.environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        wait_until(lambda: connection.execute("SELECT FROM dovetail.command").rowcount == 1, 20, "it is asked for")
        said = run(world, "stuck", "discard", "--id", queue[0], "--yes", "--reason", "x", code=1)
        assert "COMMAND_UNDER_WAY" in said
        assert "operator" in said
        asked.send_signal(signal.SIGINT)
        assert asked.wait(20) == 130
        assert asked.stderr is not None
        assert "withdrawn" in asked.stderr.read()
        asked.stderr.close()
    world.relay().wait_streaming()
    write(world, ("good", 2))
    wait_until(lambda: ("good", 2) in out(world), 20, "the relay works")
    assert len(parked(world)) == 4


def test_a_paused_release_is_withdrawn_by_name_and_the_next_command_may_come(world: World) -> None:
    world.environ["DOVETAIL_DELIVERY__BATCH_ROWS"] = "1"
    world.relay().wait_streaming()
    queue = held_queue(world)
    cure(world)
    release_and_pause(world, queue)
    said = run(world, "stuck", "discard", "--id", queue[3], "--yes", "--reason", "x", code=1)
    assert "next: dovetail stuck release --follow, or --withdraw to end it" in said
    done = run(world, "stuck", "release", "--withdraw", "--reason", "enough")
    assert (done["kind"], done["state"]) == ("release", "withdrawn")
    assert audited(world)[-2:] == [("release.withdraw", "enough"), ("release.withdrawn", "x")]
    assert parked(world), "the rest waits still"
    assert run(world, "stuck", "discard", "--id", queue[3], "--yes", "--reason", "x")["state"] == "done"
    assert "NOTHING_UNDER_WAY" in run(world, "stuck", "release", "--withdraw", code=5)


@pytest.mark.parametrize("how", ["session", "server"])
def test_a_leader_whose_session_ends_while_it_settles_a_command_comes_back(
    world: World, stack: Stack, how: str
) -> None:
    relay = world.relay().wait_streaming()
    queue = held_queue(world)
    cure(world)
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        " AND query LIKE '%%audit_log%%'"
    )
    # Not as context managers: they would commit, and their server may be gone by then.
    holder = psycopg.connect(world.endpoints.superuser_dsn)
    connection = psycopg.connect(world.endpoints.superuser_dsn, autocommit=True)
    with closing(holder), closing(connection):
        holder.execute("SELECT pg_advisory_xact_lock(hashtextextended('dovetail.audit_log', 0))")
        connection.execute(
            "INSERT INTO dovetail.command (relay, kind, arguments) VALUES (%s, 'release', '{\"upto\": 1000000}')",
            (world.name,),
        )
        wait_until(lambda: connection.execute(waiting).rowcount > 0, 20, "settling waits")
        if how == "session":
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({waiting}) AS it")
            holder.rollback()
        else:
            stack.stop_postgres("immediate")
            stack.start_postgres()
    wait_until(lambda: not parked(world), 40, "the release is done")
    assert order_of(world, "bad") == queue
    assert relay.process.poll() is None
    assert "Traceback" not in relay.log()


def test_what_waits_survives_a_crash_of_a_server_that_commits_asynchronously(world: World, stack: Stack) -> None:
    """Kafka has passed over the row by then: it is nowhere else."""
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    relay = world.relay().wait_streaming()
    for number in range(3):
        stuck = f"bad{number}"
        write_unencodable(world, stuck)
        wait_until(lambda: relay.log().count('"message_stuck"') == number + 1, 20, "it waits")  # noqa: B023
        stack.stop_postgres("immediate")
        stack.start_postgres()
        wait_until(lambda: (stuck, "schema") in parked(world), 40, "it waits still")  # noqa: B023
        wait_until(world.slot_is_active, 40, "it streams again")


def test_the_service_and_the_relay_cannot_ask_for_anything(world: World) -> None:
    for dsn in (world.endpoints.app_dsn, world.endpoints.relay_dsn):
        with (
            psycopg.connect(dsn) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("INSERT INTO dovetail.command (relay, kind) VALUES (%s, 'release')", (world.name,))
    with psycopg.connect(world.endpoints.operator_dsn) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO dovetail.command (relay, kind, actor) VALUES ('x', 'release', 'somebody')")


def test_a_release_in_steps_smaller_than_the_queue_lets_all_of_it_go(world: World) -> None:
    """The named message goes with the first step; those behind it belong to its queue all the same."""
    world.environ["DOVETAIL_DELIVERY__BATCH_ROWS"] = "100"
    world.relay().wait_streaming()
    queue = held_queue(world)
    cure(world)
    done = run(world, "stuck", "release", "--id", queue[0], "--rate", "1", "--yes", "--reason", "x")
    assert (done["state"], done["published"]) == ("done", 4)
    assert parked(world) == []
    (later,) = write(world, ("bad", 4))
    wait_until(lambda: order_of(world, "bad") == [*queue, later], 20, "all of the key is out, in order")


@pytest.mark.parametrize("dies", [False, True])
def test_what_came_to_the_queue_after_the_command_goes_with_it(world: World, dies: bool) -> None:
    """Rows behind the last one that the operator saw are not left waiting for nothing, also by the next leader."""
    first = world.relay().wait_streaming()
    queue = held_queue(world)
    first.terminate()
    cure(world)
    with psycopg.connect(world.endpoints.operator_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dovetail.command (relay, kind, arguments)"
            " SELECT %s, 'release', jsonb_build_object('upto', min(seq), 'rate', 1.0) FROM dovetail.parked",
            (world.name,),
        )
    if dies:
        killed = world.relay("-m", "dovetail_relay.crash", "confirmed", "2")
        assert killed.wait_ended() == -signal.SIGKILL, killed.log()[-2000:]
    world.relay().wait_streaming()
    wait_until(lambda: parked(world) == [], 20, "nothing waits")
    assert order_of(world, "bad") == queue


def failed_commands(world: World) -> int:
    with psycopg.connect(world.endpoints.owner_dsn) as connection:
        return connection.execute("SELECT FROM dovetail.command WHERE state = 'failed'").rowcount


def test_a_command_that_makes_no_sense_fails_by_name_and_the_relay_works_on(world: World) -> None:
    relay = world.relay().wait_streaming()
    write_unencodable(world, "bad")
    wait_until(lambda: len(parked(world)) == 1, 20, "it waits")
    senseless = [
        "{}", "[]", '"all"', '{"upto": "x"}', '{"upto": 9, "rate": 0}', '{"upto": 9, "rate": "fast"}',
        '{"upto": 9, "id": "no-uuid"}', '{"upto": 9, "since": "yesteryear"}', '{"upto": 9, "key": {"a": 1}}',
        '{"upto": 99999999999999999999}',
    ]  # fmt: skip
    with psycopg.connect(world.endpoints.operator_dsn, autocommit=True) as connection:
        for number, arguments in enumerate(senseless, 1):
            connection.execute(
                "INSERT INTO dovetail.command (relay, kind, arguments) VALUES (%s, 'release', %s::jsonb)",
                (world.name, arguments),
            )
            wait_until(lambda n=number: failed_commands(world) == n, 10, f"{arguments} fails")
    write(world, ("good", 1))
    wait_until(lambda: out(world) == [("good", 1)], 20, "the relay works on")
    assert len(parked(world)) == 1
    assert not relay.has_logged("relay_restarting")


def test_a_discard_that_names_nothing_does_not_touch_what_the_relay_stands_before(world: World) -> None:
    world.environ[f"DOVETAIL_ROUTES__{world.name.upper()}__ON_STUCK"] = "halt"
    relay = world.relay().wait_streaming()
    write_unencodable(world, "bad")
    wait_until(lambda: relay.has_logged("relay_halted"), 20, "it halts")
    with psycopg.connect(world.endpoints.operator_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dovetail.command (relay, kind, arguments) VALUES (%s, 'discard', '{\"upto\": 0}')",
            (world.name,),
        )
        asked = "SELECT state FROM dovetail.command"
        wait_until(lambda: connection.execute(asked).fetchone() == ("failed",), 20, "it fails")
        states = connection.execute("SELECT state FROM dovetail.parked").fetchall()
    assert states == [("halting",)]
