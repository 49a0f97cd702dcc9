"""All faults together, by lot: kill, freeze, partition, delay, lose, repeat, under writers of every kind.

    make faults SEED=7 MINUTES=10        a long one; without SEED, another one each time
    make test                            a short one, of a seed that draws most kinds of faults in 20 s

The seed is printed, and a seed gives the same schedule again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.stack import Stack
from support.checker import forgotten, pinned, silent, slot_ahead
from support.linked import linked_world
from support.servers import own_servers
from support.storm import Storm, schedule
from support.waiting import wait_until
from support.watch import LiveReader, PortWatch, SlotWatch, checkpoints
from support.world import World
from support.writers import EVERY_WAY

# I13: from the end of the last fault to everything published.
LIVE_SECONDS = 60.0
# I12: what the server may keep for the slot of a relay that has caught up; two segments.
PINNED_BYTES = 32 << 20


@pytest.fixture(scope="module")
def own_stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """Servers that nobody else uses."""
    with own_servers(brokers=pytestconfig.getoption("--brokers")) as servers:
        yield servers


def caught_up(world: World, watch: SlotWatch) -> None:
    """Until the server keeps no more than it must; traffic of others, and no word from the outbox, moves it there."""
    with psycopg.connect(world.endpoints.superuser_dsn, autocommit=True) as connection:

        def is_so() -> bool:
            connection.execute("CHECKPOINT")
            return not pinned(watch.samples, PINNED_BYTES)

        wait_until(is_so, LIVE_SECONDS, f"the slot lets go; {watch.samples[-1]}")


@pytest.mark.timeout(7200)
def test_no_mix_of_faults_breaks_a_promise(own_stack: Stack, pytestconfig: pytest.Config) -> None:
    seed, seconds = pytestconfig.getoption("--fault-seed"), pytestconfig.getoption("--fault-seconds")
    brokers = pytestconfig.getoption("--brokers")
    turns = schedule(seed, seconds)
    print(f"seed {seed}, {seconds:g} s: make faults SEED={seed} MINUTES={seconds / 60:g}")
    for turn in turns:
        print(f"  {turn}")
    with linked_world(own_stack, DOVETAIL_RELAY__LEASE_SECONDS="2") as linked:
        world = linked.world
        storm = Storm(world, linked.kafka, linked.postgres, relays=2, brokers=brokers)
        with LiveReader(world) as live, SlotWatch(world) as slot, PortWatch(lambda: list(storm.running)) as ports:
            with world.writers(count=3, seed=seed, ways=EVERY_WAY) as writers:
                storm.rages(turns)
                healed = time.monotonic()
            world.wait_until_published(LIVE_SECONDS)
            print(f"healed and caught up in {time.monotonic() - healed:.1f} s; {dict(storm.counts)}")
            caught_up(world, slot)
            final = world.read_topic()
            wait_until(lambda: sum(map(len, live.seen)) >= len(final), 30, "the live reader has seen it all")
        tally = writers.tally
        books = world.books(tally.rolled_back_ids)
        print(f"{books}; unknown {tally.unknown}, copied {tally.copied}, prepared {tally.prepared}, huge {tally.huge}")
        assert books.ok, str(books)
        assert not forgotten(tally.committed_ids, world.table())
        for partition, seen in enumerate(live.seen):
            assert seen == [event.event_id for event in final if event.partition == partition], "torn for a while"
        assert not slot_ahead(slot.samples, checkpoints(world), slot.first)
        assert not silent(ports.scrapes)
        halts = [line for relay in world.relays for line in relay.halts]
        assert not halts, "nothing here is a reason to halt"
        assert linked.kafka.aborts == 0
        assert len(slot.samples) > seconds
        assert len(ports.scrapes) > seconds / 4
