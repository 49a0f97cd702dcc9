"""What an operator is told to type about one stuck message, by its reason."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import dovetail_relay
from dovetail_relay.observe.advice import REASONS, Case, next_of

PARKED = Case("an-id", "parked", "schema", "m")


def test_what_was_never_taken_in_is_not_to_be_released() -> None:
    large = replace(PARKED, reason="too_large")
    said = next_of(large, {})
    assert said.startswith("dovetail stuck discard --id an-id")
    assert "dovetail replay --id an-id" in said
    assert "replay" not in next_of(replace(large, kept=False), {})
    # It streams again as soon as the limit is higher: nothing is lost by waiting.
    assert next_of(replace(large, state="halting"), {}).startswith("raise outbox.max_row_bytes")
    for case in (large, replace(large, kept=False), replace(large, state="halting")):
        assert "release" not in next_of(case, {})


@pytest.mark.parametrize(
    ("size", "given", "whose"),
    [
        (1_200_000, {}, 'kafka."message.max.bytes" (1000000)'),
        (1_200_000, {"message.max.bytes": "6000000"}, "the topic's max.message.bytes"),
        (None, {}, 'kafka."message.max.bytes" (1000000) or the topic\'s max.message.bytes'),
    ],
)
def test_a_record_that_is_too_large_says_whose_limit_it_is(size: int | None, given: dict[str, str], whose: str) -> None:
    refused = replace(PARKED, reason="refused", message="Kafka refuses it: MSG_SIZE_TOO_LARGE", payload_bytes=size)
    assert next_of(refused, given).startswith(f"raise {whose}")


@pytest.mark.parametrize("reason", ["schema", "unroutable", "topic", "refused"])
def test_a_cause_that_can_be_taken_away_comes_before_the_release(reason: str) -> None:
    said = next_of(replace(PARKED, reason=reason), {})
    assert said.index(", then dovetail stuck release --id an-id") > 0
    assert "release" not in next_of(replace(PARKED, reason=reason, state="halting"), {})


def test_what_is_wrong_with_the_row_itself_is_not_to_be_released() -> None:
    for reason in ("encoding", "headers", "envelope", "null", "time"):
        assert next_of(replace(PARKED, reason=reason), {}).startswith("dovetail stuck discard --id an-id")


def test_every_reason_under_which_a_message_is_parked_is_known() -> None:
    source = "\n".join(path.read_text() for path in Path(dovetail_relay.__file__).parent.rglob("*.py"))
    parked_under = set(re.findall(r'StuckMessage\([^)]*?reason="(\w+)"', source))
    assert {"schema", "too_large"} <= parked_under
    assert parked_under <= set(REASONS)
