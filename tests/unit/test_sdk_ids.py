"""Event ids ascend, whatever the clock and the threads do."""

import multiprocessing
import threading
import time
from uuid import RFC_4122

from dovetail import ids


def test_ids_are_version_7_of_now():
    before = time.time_ns() // 1_000_000
    made = ids.uuid7()
    assert made.version == 7
    assert made.variant == RFC_4122
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_ascend_within_a_thread():
    made = [ids.uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_ascend_when_the_clock_steps_back(monkeypatch):
    first = ids.uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert first < ids.uuid7() < ids.uuid7()


def test_threads_never_get_the_same_id():
    made = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda out=out: out.extend(ids.uuid7() for _ in range(5_000))) for out in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({made_id for out in made for made_id in out}) == 20_000


def _send_one(pipe):
    pipe.send(ids.uuid7().int & (1 << 62) - 1)


def test_forked_children_draw_different_bits():
    context = multiprocessing.get_context("fork")
    drawn = set()
    for _ in range(3):
        ours, theirs = context.Pipe()
        child = context.Process(target=_send_one, args=(theirs,))
        child.start()
        drawn.add(ours.recv())
        child.join()
    assert len(drawn) == 3
