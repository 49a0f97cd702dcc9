"""Exactly once under every fault that a seed can draw, and the proof that the simulation would notice otherwise.

pytest tests/simulation                    20,000 seeds and every planted mistake
pytest tests/simulation --seeds 100000     about a minute
pytest tests/simulation --seed 4711 -s     one seed, told step by step
"""

from __future__ import annotations

from collections import Counter

import pytest
from simulation.checks import Violation
from simulation.plants import PLANTS
from simulation.world import Story, run

# A path that no seed takes proves nothing: each of these must have come up.
RARE = (
    "verdict COMMITTED",
    "verdict NOT_COMMITTED",
    "verdict TORN",
    "verdict FOREIGN",
    "fenced with the lock held",
    "zombie refused: the lock was gone",
    "zombie fenced its successor",
    "zombie's stream ended",
    "transaction cut into chunks",
    "stream began inside a transaction",
    "transaction published before, dropped",
    "slot rewound by a crash",
    "idle checkpoint",
    "stopped with nothing under way",
    "slow commit",
    "commit applied, answer lost",
    "commit not applied",
    "late EndTxn(commit) refused by the epoch",
    "late EndTxn(commit) ended a transaction",
    "late EndTxn(commit) found nothing open",
    "late AddPartitionsToTxn",
    "late Produce",
    "epoch moved under the leader",
    "open transaction aborted by the epoch",
    "promotion",
    "halt GAP",
    "halt DIVERGED",
    "halt CHECKPOINT_LOST",
    "halt that healed by itself",
    "repeats where repeats may be",
)


def test_every_seed_keeps_every_promise_and_the_seeds_reach_every_rare_path(
    seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter() if len(seeds) > 1 else Story()
    for seed in seeds:
        run(seed, seen)
    if len(seeds) >= 10_000:
        assert [name for name in RARE if not seen[name]] == []
        with capsys.disabled():
            print("".join(f"\n{seen[name]:>9}  {name}" for name in sorted(seen)))


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[name](monkeypatch)
    seen: Counter[str] = Counter()
    with pytest.raises(Violation):
        for seed in range(20_000):
            run(seed, seen)


def test_a_late_abort_after_a_reused_producer_is_among_what_the_seeds_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay never sends an abort; only the planted mistake puts one under way: that is how it loses events."""
    PLANTS["a producer is used again after an abort"](monkeypatch)
    seen: Counter[str] = Counter()
    found = Counter[str]()
    for seed in range(3000):
        try:
            run(seed, seen)
        except Violation as broken:
            found["lost" if ": lost" in str(broken) else "other"] += 1
    assert seen["late EndTxn(abort) ended a transaction"] > 0
    assert seen["late EndTxn(abort) found nothing open"] > 0
    assert seen["late EndTxn(abort) refused by the epoch"] > 0
    assert found["lost"] > 0


def test_a_seed_replays_to_the_same_story() -> None:
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for seed in range(200):
        run(seed, first)
        run(seed, second)
    assert first == second
