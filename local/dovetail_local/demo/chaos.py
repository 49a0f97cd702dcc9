"""When to kill whom: random moments, spread so that each victim has time to come back to work before the next."""

import random
from dataclasses import dataclass, field
from typing import Literal

# Three, or two where the time is too short for the relay to come back three times.
RELAY_KILLS, RELAY_KILLS_IN_A_HURRY = 3, 2
HURRY_SECONDS = 8.0
_CHANCE = random.SystemRandom()
# No kill in the first and the last part of the play: there is nothing to lose yet, or no longer.
_FIRST, _LAST = 0.12, 0.92

Victim = Literal["relay", "shipping"]


@dataclass(slots=True)
class Schedule:
    """The kills that are left, earliest first."""

    kills: list[tuple[float, Victim]] = field(default_factory=list)

    def due(self, elapsed: float) -> Victim | None:
        """Say who is to be killed now, None where nobody is."""
        return self.kills[0][1] if self.kills and elapsed >= self.kills[0][0] else None

    def done(self) -> None:
        """Strike the kill that was due."""
        del self.kills[0]


def schedule(seconds: float) -> Schedule:
    """Draw the moments: one for each relay kill in its own part of the time, one for the consumer anywhere."""
    kills = RELAY_KILLS if seconds >= HURRY_SECONDS else RELAY_KILLS_IN_A_HURRY
    part = (_LAST - _FIRST) * seconds / kills
    moments: list[tuple[float, Victim]] = [
        (_FIRST * seconds + part * (number + _CHANCE.random()), "relay") for number in range(kills)
    ]
    moments.append((seconds * _CHANCE.uniform(0.35, 0.65), "shipping"))
    return Schedule(sorted(moments))
