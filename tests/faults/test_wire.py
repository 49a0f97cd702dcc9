"""What the relay tells PostgreSQL on the wire never runs ahead of what Kafka holds."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from dovetail_local.stack import Stack
from support.durable import DurableCheckpoint
from support.waiting import wait_until
from support.wire import FeedbackProxy
from support.world import new_world


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_no_feedback_is_ahead_of_the_durable_checkpoint(stack: Stack, mode: str) -> None:
    with new_world(stack) as world:
        durable = DurableCheckpoint(world.endpoints.bootstrap_servers, f"dovetail.checkpoint.{world.name}")
        first = world.confirmed_flush()
        flushes: list[int] = []
        ahead: list[int] = []

        def judge(flush: int) -> None:
            flushes.append(flush)
            # Up to the slot's first position nothing was ever there to publish.
            if flush > first and not durable.covers(flush):
                ahead.append(flush)

        with FeedbackProxy(world.postgres, judge) as proxy:
            environ = {**world.postgres_through(proxy), "DOVETAIL_DELIVERY__MODE": mode}
            with world.writers() as writers:
                for _ in range(3):
                    relay = world.relay(**environ).wait_streaming()
                    before = len(flushes)
                    deadline = time.monotonic() + 20
                    while len(flushes) < before + 8:
                        assert time.monotonic() < deadline, relay.log()[-2000:]
                        world.confirmed_flush()
                    relay.signal(signal.SIGKILL)
                    relay.wait_ended()
                last = world.relay(**environ).wait_streaming()
                # Rows go on coming in while Kafka stands still.
                stack.pause_broker(1)
                written = len(world.table())
                wait_until(lambda: len(world.table()) > written + 100, 20, "100 more rows are committed")
                stack.resume_broker(1)
            world.wait_until_published()
            assert last.terminate() == 0
            assert not proxy.errors
        assert len(flushes) > 20
        assert flushes != sorted(set(flushes)) or len(set(flushes)) > 5
        assert ahead == []
        if mode == "exactly_once":
            assert world.books(writers.tally.rolled_back_ids).ok


def test_a_relay_that_confirms_what_it_received_is_caught(stack: Stack) -> None:
    with new_world(stack) as world:
        durable = DurableCheckpoint(world.endpoints.bootstrap_servers, f"dovetail.checkpoint.{world.name}")
        caught = threading.Event()

        def judge(flush: int) -> None:
            if flush and not durable.covers(flush, patience_seconds=0.5):
                caught.set()

        with FeedbackProxy(world.postgres, judge) as proxy, world.writers():
            world.relay(
                "-m", "support.planted", "confirms_what_it_received", **world.postgres_through(proxy)
            ).wait_streaming()
            # It must know the topic: before the first batch it asks Kafka for it, and reads nothing meanwhile.
            wait_until(world.read_topic, 20, "the first events are out")
            # While Kafka stands still nothing becomes durable, and the broken relay goes on confirming.
            stack.pause_broker(1)
            try:
                assert caught.wait(30)
            finally:
                stack.resume_broker(1)
