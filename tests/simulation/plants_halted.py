"""Mistakes to plant where the relay is halted: in what is accepted, and in what a recovery makes of queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest
from simulation.halted import Halted
from simulation.publisher import Publisher
from simulation.recovered import Recovered
from simulation.session import Session
from simulation.tables import Tables

from dovetail_relay import admission
from dovetail_relay.errors import Halt
from dovetail_relay.nouns import RelayRow, ServerFacts
from dovetail_relay.recovery import Ground
from dovetail_relay.source.commands import Command

Patch = pytest.MonkeyPatch

# -- what is accepted -------------------------------------------------------------------------------------------------


def _any_publication_passes(patch: Patch) -> None:
    real = admission.admit

    def admit(facts: ServerFacts, row: RelayRow, *others: Any) -> Any:
        return real(replace(facts, publication_fingerprint=row.publication_fingerprint), row, *others)

    patch.setattr(admission, "admit", admit)
    _publication_not_watched(patch)


def _publication_not_watched(patch: Patch) -> None:
    def publication_fingerprint(self: Session, _publication: str) -> str | None:
        return self._tables.ground.recorded

    patch.setattr(Session, "publication_fingerprint", publication_fingerprint)


def _partitions_not_counted(patch: Patch) -> None:
    patch.setattr(Publisher, "expect", lambda _self, _counts: None)


def _first_count_is_right(patch: Patch) -> None:
    """Of a topic that was not there at the admission."""
    real = Publisher.partitions

    def partitions(self: Publisher, topic: str, timeout: float) -> int | None:
        found = real(self, topic, timeout)
        if topic == "orders":
            self._counted = self._counted or found
        return found

    _partitions_not_counted(patch)
    patch.setattr(Publisher, "partitions", partitions)


def _whatever_is_there_is_accepted(patch: Patch) -> None:
    real = Halted._accept

    def accept(self: Halted, command: Command, halt: Halt, ground: Ground) -> bool:
        recorded = self._session.partition_counts()
        counts = {topic: self._publisher.partitions(topic, timeout=5.0) for topic in recorded}
        changed = {topic: count for topic, count in counts.items() if count not in (None, recorded[topic])}
        arguments = {"publication": ground.facts.publication_fingerprint, "partitions": changed}
        return real(self, replace(command, arguments=arguments), halt, ground)

    patch.setattr(Halted, "_accept", accept)


def _accepted_by_halves(patch: Patch) -> None:
    real, whole = Halted._accept, Session.transaction

    @contextmanager
    def in_pieces(_self: Session) -> Iterator[None]:
        yield

    def accept(self: Halted, *args: Any) -> bool:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Session, "transaction", in_pieces)
            return real(self, *args)

    patch.setattr(Session, "transaction", whole)
    patch.setattr(Halted, "_accept", accept)


def _settled_before_it_is_recorded(patch: Patch) -> None:
    real = Halted._accept

    def accept(self: Halted, command: Command, halt: Halt, ground: Ground) -> bool:
        self._commands.settle(command.id, "done", "recorded what is there now")
        return real(self, command, halt, ground)

    patch.setattr(Halted, "_accept", accept)


def _unfit_accepted(patch: Patch) -> None:
    patch.setattr(Halted, "_refuse_unfit", lambda _self: None)


# -- what a recovery makes of queues ----------------------------------------------------------------------------------


def _half_a_queue_judged_again(patch: Patch) -> None:
    def judge_again(self: Recovered, horizon: int, visible: int) -> None:
        outbox = self._database.outbox(horizon, visible)
        for row in self.waiting():
            if row["n"] in outbox and not self._stays(row):
                del self.parked[row["seq"]]
        self.wrote()

    patch.setattr(Recovered, "_judge_again", judge_again)


def _doubt_not_settled(patch: Patch) -> None:
    real = Recovered._doubt

    def doubt(self: Recovered, params: Mapping[str, Any]) -> Any:
        seen, self.seen = self.seen, set()
        found = real(self, params)
        self.seen = seen
        return found

    patch.setitem(_statements(), "recovery_doubt", doubt)


def _doubt_taken_back_at_the_start(patch: Patch) -> None:
    real = Tables._unmark
    patch.setitem(_statements(), "desk_unmark", lambda self, params: real(self, {**params, "backfill": False}))


def _statements() -> Any:
    from simulation import tables

    return tables._STATEMENTS


HALTED: Final[dict[str, Callable[[Patch], None]]] = {
    "any publication passes": _any_publication_passes,
    "nobody looks at the publication while it streams": _publication_not_watched,
    "a producer does not count partitions": _partitions_not_counted,
    "a topic has as many partitions as it is found with": _first_count_is_right,
    "whatever is there is accepted": _whatever_is_there_is_accepted,
    "a publication that is not fit is accepted": _unfit_accepted,
    "what is accepted and the command's end are two": _accepted_by_halves,
    "a command is settled before what it accepts is recorded": _settled_before_it_is_recorded,
    "a recovery judges half a queue again": _half_a_queue_judged_again,
    "a recovery does not look for a step in doubt": _doubt_not_settled,
    "a step in doubt is taken back before the topics are read": _doubt_taken_back_at_the_start,
}
