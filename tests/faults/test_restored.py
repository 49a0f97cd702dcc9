"""A server that was put back to an earlier moment of the same timeline: a snapshot of its volume, a cold copy."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.operator import dovetail, dovetail_json
from support.servers import own_servers
from support.stuck import order_of, out, write
from support.waiting import wait_until
from support.world import World, new_world


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Servers that nobody else uses."""
    with own_servers() as servers:
        yield servers


def data_of(world: World) -> Path:
    with psycopg.connect(world.endpoints.superuser_dsn) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(str(row[0]))


def put_back(stack: Stack, copy: Path, data: Path) -> None:
    stack.stop_postgres("fast")
    shutil.rmtree(data)
    subprocess.run(["cp", "-a", str(copy), str(data)], check=True)  # the owner too
    stack.start_postgres()


def copied(stack: Stack, world: World, copy: Path) -> Path:
    data = data_of(world).resolve()
    stack.stop_postgres("fast")
    subprocess.run(["cp", "-a", f"{data}/.", str(copy)], check=True)
    stack.start_postgres()
    return data


def halted(world: World) -> bool:
    return any(line.get("halt") == "DIVERGED" for line in world.relays[-1].events())


def test_a_database_put_back_to_an_earlier_moment_is_diverged_and_recovered_in_a_new_epoch(
    own_stack: Stack, tmp_path: Path
) -> None:
    with new_world(own_stack) as world:
        relay = world.relay().wait_streaming()
        (first,) = write(world, ("k", 1))
        wait_until(lambda: out(world) == [("k", 1)], 20, "it is published")
        data = copied(own_stack, world, tmp_path / "copy")
        lost = write(world, *[("k", number) for number in range(2, 40)])
        wait_until(lambda: len(out(world)) == 39, 30, "all are published")
        put_back(own_stack, tmp_path / "copy", data)
        wait_until(lambda: halted(world), 40, f"it halts:\\n{relay.log()[-1500:]}")
        world.environ["DOVETAIL_RELAY__HTTP_PORT"] = str(relay.port())
        assert json.loads(relay.get("/readyz")[1])["next"] == "dovetail recover --new-epoch"
        code, _, said = dovetail(world, "status")
        assert (code, "DIVERGED" in said) == (4, True), said
        code, printed, _ = dovetail(world, "doctor", "--output", "json")
        (progress,) = [row for row in json.loads(printed) if row["check"] == "dovetail.progress"]
        assert (code, progress["status"]) == (4, "fail")
        done = dovetail_json(world, "recover", "--new-epoch", "--reason", "restored", "--yes")
        assert sorted(done["phantom_ids"]) == sorted(lost)
        (again,) = write(world, ("k", 100))
        wait_until(lambda: order_of(world, "k") == [first, *lost, again], 30, "what is written now goes out")


def test_where_services_wrote_before_anybody_looked_a_new_epoch_publishes_all_of_it(
    own_stack: Stack, tmp_path: Path
) -> None:
    """The log has passed the checkpoint again, and nothing tells the two pasts apart but the operator."""
    with new_world(own_stack) as world:
        relay = world.relay().wait_streaming()
        write(world, ("k", 1))
        wait_until(lambda: out(world) == [("k", 1)], 20, "it is published")
        relay.terminate()
        data = copied(own_stack, world, tmp_path / "copy")
        world.relay().wait_streaming()
        lost = write(world, ("k", 2))
        wait_until(lambda: len(out(world)) == 2, 30, "it is published")
        world.relays[-1].terminate()
        put_back(own_stack, tmp_path / "copy", data)
        new = write(world, *[("k", number) for number in range(100, 400)])
        world.relay().wait_streaming()
        code, _, said = dovetail(world, "recover", "--new-epoch", "--reason", "restored", "--yes")
        assert code == 5
        drop = f"dovetail slot drop --slot {world.settings().relay.slot}"
        assert f"where you know better, {drop}, then dovetail recover --new-epoch" in said
        world.relays[-1].terminate()
        wait_until(lambda: not world.slot_is_active(), 20, "nobody streams")
        for command in (drop.split()[1:], ["recover", "--new-epoch"]):
            if command[0] == "recover":
                world.relay()
            code, printed, said = dovetail(world, *command, "--reason", "restored", "--yes")
            assert code == 0, printed + said
        wait_until(lambda: set(new) <= {seen.event_id for seen in world.read_topic()}, 40, "all of it is out")
        assert [event for event in order_of(world, "k") if event in set(new)] == new
        assert set(lost) <= {seen.event_id for seen in world.read_topic()}
