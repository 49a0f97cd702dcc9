"""The second thread hands every result over, however quickly its job ends."""

from __future__ import annotations

import os
import select
from functools import partial

import pytest

from dovetail_relay.side import SideThread


def test_a_result_is_not_seen_before_its_wake_up_byte_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # It was once: the loop read a byte that was not there yet, and the relay ended.
    side: SideThread[str] = SideThread("test")
    seen: list[object] = []
    honest = os.write

    def write(descriptor: int, data: bytes) -> int:
        seen.append(side.poll())
        return honest(descriptor, data)

    monkeypatch.setattr("dovetail_relay.side.os.write", write)
    try:
        side.submit(lambda: "done")
        while (done := side.poll()) is None:
            select.select([side.fileno()], [], [], 10)
        assert seen == [None]
        assert done == ("done", None)
    finally:
        side.stop()


def test_a_finished_job_turns_the_descriptor_readable() -> None:
    side: SideThread[str] = SideThread("test")
    try:
        side.submit(lambda: "done")
        assert select.select([side.fileno()], [], [], 10)[0]
        done = side.poll()
        while done is None:
            done = side.poll()
        assert done == ("done", None)
        assert not select.select([side.fileno()], [], [], 0)[0]
    finally:
        side.stop()


def test_an_exception_is_carried_to_the_loop() -> None:
    side: SideThread[None] = SideThread("test")
    try:
        side.submit(partial(int, "not a number"))  # type: ignore[arg-type]
        while (done := side.poll()) is None:
            pass
        assert isinstance(done[1], ValueError)
    finally:
        side.stop()


def test_a_second_job_is_refused_while_one_is_under_way() -> None:
    side: SideThread[None] = SideThread("test")
    try:
        side.submit(lambda: None)
        with pytest.raises(RuntimeError, match="one job"):
            side.submit(lambda: None)
    finally:
        side.stop()
