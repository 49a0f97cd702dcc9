"""Exactly once under every fault that a seed can draw, and the proof that the simulation would notice otherwise.

pytest tests/simulation                    6,000 seeds and every planted mistake
pytest tests/simulation --seeds 100000     a minute and a half on two cores
pytest tests/simulation --seed 4711 -s     one seed, told step by step
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from simulation.checks import Violation
from simulation.plants import PLANTS
from simulation.plants_seeds import SHOWN_BY, SHOWN_IN
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
    # rows that stick
    "row parked, encode",
    "row parked, refused",
    "row parked, unhandled",
    "row parked, route",
    "row parked, topic",
    "row parked, behind",
    "row dead_lettered, encode",
    "row dead_lettered, refused",
    "row discarded, discarded",
    "halted before a stuck row",
    "route added",
    "batch given up: a record refused",
    "batch given up: a topic refused",
    "part of a transaction with parked rows",
    "refusal inside a part of a large transaction",
    "parked rows written again",
    "killed between a parked write and the commit",
    "killed at parked_write",
    "killed at parked_drop_beyond",
    "TORN with parked rows",
    "TORN with a refusal",
    "parked at the end",
    # rows that end the process
    "poison struck in hand",
    "poison struck in Kafka",
    "poison struck at the desk",
    "search begun, or gone on with",
    "search went on at the row where it had ended",
    "search over",
    "row noted before, and taken once more",
    "row parked, crash",
    "row from before the slot blamed",
    "innocent row blamed for kills",
    "halt POISON_HELD",
    "command given up: processes ended at its step",
    "killed at relay_began",
    "killed at relay_suspects",
    "poison parked at the end",
    "discarded at the end",
    "dead at the end",
    # what an operator asks for
    "command release",
    "command discard",
    "command replay",
    "command repeated",
    "command that makes no sense",
    "command withdrawn while it ran",
    "step of a command",
    "refusal in a step of a command",
    "release raced the stream of its key",
    "killed with a step under way",
    "killed between a step's commit and its settling",
    "killed at desk_let_go",
    "killed at desk_condemn",
    # recovery
    "slot dropped",
    "halt SLOT_LOST",
    "halt cured by an operator",
    "recovery over",
    "recovery from a horizon",
    "recovery begun anew while one was under way",
    "row missing, published by a recovery",
    "killed during a recovery",
    "killed at taken",
    "killed at slot_dropped",
    "killed at slot_made",
    "killed at rebased",
    "killed at recovery_rebase",
    "killed at read_back",
    "killed at recovery_doubt",
    "killed at backfilled",
    "queue looked at again by a recovery",
    "queue kept whole by a recovery",
    "row that waits is gone from the outbox",
    "checkpoint lost with a step that nobody has settled",
    "step in doubt found in the topics",
    # what changes under the relay, and is accepted
    "publication made again, fit",
    "publication made again, not fit",
    "topic has grown",
    "a producer that knows of more partitions commits nothing",
    "halt PUBLICATION_CHANGED",
    "halt PARTITIONS_CHANGED",
    "command accept",
    "publication accepted",
    "partitions accepted",
    "accept refused: it is not what was seen",
    "accept refused: not fit",
    "accept refused: nothing to do",
    "killed at accepted",
    "rows that no publication sent",
    "rows that no publication sent, found by a recovery",
)
# Fewer seeds than this need not reach all of them, and more than that are shared by two processes.
ENOUGH = 6_000
MANY = 20_000


def _story(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter() if len(seeds) > 1 else Story()
    for seed in seeds:
        run(seed, seen)
    return seen


def test_every_seed_keeps_every_promise_and_the_seeds_reach_every_rare_path(
    seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    if len(seeds) > MANY:
        with ProcessPoolExecutor(2) as two:
            first, second = two.map(_story, (seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]))
        seen = first + second
    else:
        seen = _story(seeds)
    if len(seeds) >= ENOUGH:
        assert [name for name in RARE if not seen[name]] == []
        with capsys.disabled():
            print("".join(f"\n{seen[name]:>9}  {name}" for name in sorted(seen)))


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[name](monkeypatch)
    seen: Counter[str] = Counter()
    with pytest.raises(Violation):
        for seed in (*SHOWN_BY.get(name, ()), *range(MANY)):
            run(seed, seen, SHOWN_IN.get(name))


def test_a_late_abort_after_a_reused_producer_is_among_what_the_seeds_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay never sends an abort; only the planted mistake puts one under way: that is how it loses events."""
    PLANTS["a producer is used again after an abort"](monkeypatch)
    seen: Counter[str] = Counter()
    wanted = [
        f"late EndTxn(abort) {what}" for what in ("ended a transaction", "found nothing open", "refused by the epoch")
    ]
    wanted.append("lost")
    for seed in (*SHOWN_BY["a late abort"], *range(MANY)):
        try:
            run(seed, seen)
        except Violation as broken:
            seen["lost"] += ": lost" in str(broken)
        if all(seen[what] for what in wanted):
            return
    pytest.fail(f"not reached: {[what for what in wanted if not seen[what]]}")


def test_a_seed_replays_to_the_same_story() -> None:
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for seed in range(200):
        run(seed, first)
        run(seed, second)
    assert first == second
