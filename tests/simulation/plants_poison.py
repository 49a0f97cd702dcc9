"""Mistakes to plant in the search for a row that ends the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from dovetail_relay import suspicion
from dovetail_relay.desk.desk import OperatorDesk
from dovetail_relay.nouns import Parked, ParkedState, Place
from dovetail_relay.parking import Parking
from dovetail_relay.suspicion import Suspicion

Patch = pytest.MonkeyPatch


def _blamed_too_early(patch: Patch) -> None:
    patch.setattr(suspicion, "IN_HAND", suspicion.IN_HAND - 1)


def _kafka_blamed_too_early(patch: Patch) -> None:
    patch.setattr(suspicion, "AT_ALL", suspicion.AT_ALL - 1)


def _in_hand_for_good(patch: Patch) -> None:
    patch.setattr(Suspicion, "handed_over", lambda _self: None)


def _nothing_noted(patch: Patch) -> None:
    def before_each(self: Suspicion, _place: Place) -> None:
        self._noted = True

    patch.setattr(Suspicion, "before_each", before_each)


def _noted_once_it_is_through(patch: Patch) -> None:
    """One row too late: what ends the process is never on record."""
    real, goes_on = Suspicion.before_each, Suspicion.goes_on
    place_of: dict[int, Place] = {}

    def before_each(self: Suspicion, place: Place) -> None:
        place_of[id(self)] = place
        self._noted = True

    def asked(self: Suspicion) -> bool:
        if self._noted and id(self) in place_of:
            real(self, place_of.pop(id(self)))
        return goes_on(self)

    patch.setattr(Suspicion, "before_each", before_each)
    patch.setattr(Suspicion, "goes_on", asked)


def _noted_with_each_stream(patch: Patch) -> None:
    real = Suspicion.before_each

    def before_each(self: Suspicion, place: Place) -> None:
        self._noted_at = None
        real(self, place)

    patch.setattr(Suspicion, "before_each", before_each)


def _notes_kept_by_an_end_in_order(patch: Patch) -> None:
    patch.setattr(Suspicion, "acquit", lambda _self: None)


def _tried_once_more(patch: Patch) -> None:
    patch.setattr(Parking, "before", lambda _self, _place, _event_id: None)


def _several_at_a_time(patch: Patch) -> None:
    """Whoever searches takes the rows in as ever, and notes the last of them."""
    real = Suspicion.goes_on

    def goes_on(self: Suspicion) -> bool:
        real(self)
        return False

    patch.setattr(Suspicion, "goes_on", goes_on)


def _buried_as_a_dead_letter(patch: Patch) -> None:
    real = Parking.of_stuck

    def of_stuck(self: Parking, *args: Any) -> Parked:
        parked = real(self, *args)
        if parked.reason == "crash" and self._policy("order") == "skip":
            self.held.discard(parked.hold)
            return parked._replace(state=ParkedState.DEAD_LETTERED)
        return parked

    patch.setattr(Parking, "of_stuck", of_stuck)


def _attempts_not_counted(patch: Patch) -> None:
    real = OperatorDesk.__init__

    def init(self: OperatorDesk, *args: Any, **named: Any) -> None:
        real(self, *args, **{**named, "newborn": False})

    patch.setattr(OperatorDesk, "__init__", init)


POISONED: Final[dict[str, Callable[[Patch], None]]] = {
    "two deaths in hand are enough to blame a row": _blamed_too_early,
    "seven deaths in Kafka's hands are enough to blame a row": _kafka_blamed_too_early,
    "a row that Kafka has is in hand still": _in_hand_for_good,
    "a search notes nothing": _nothing_noted,
    "a search notes each row once it is through": _noted_once_it_is_through,
    "a search notes a row again with each stream": _noted_with_each_stream,
    "an end in order is a death": _notes_kept_by_an_end_in_order,
    "a search takes rows as ever": _several_at_a_time,
    "a row that is to blame is tried once more": _tried_once_more,
    "a row that is to blame is buried as a dead letter": _buried_as_a_dead_letter,
    "processes that end at a command's step are not counted": _attempts_not_counted,
}
