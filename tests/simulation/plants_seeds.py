"""Where planted mistakes are seen that few seeds show."""

from __future__ import annotations

from typing import Final

from simulation.misfortunes import FAILOVERS, LOSSES, ZOMBIES, Misfortune

# Seeds that have shown a mistake which few seeds show: they are tried first.
SHOWN_BY: Final[dict[str, tuple[int, ...]]] = {
    "a late abort": (99, 107, 150, 212, 3187),
    "another history passes": (1243,),
    "a queue is released while a recovery publishes": (33386,),
    "a promoted server need not know that a step is settled": (304681,),
    "only their place tells which parked rows never were": (37818,),
    "a promoted server need not have the marks of a step": (37818,),
    "a recovery without a checkpoint does a step again": (27300,),
    "nobody looks at the lock behind the fencing": (46979,),
    "parked rows of a first batch that never committed stay": (1243,),
    "a torn checkpoint is the base": (739,),
    "each leader numbers the steps anew": (34012,),
    "a key is free after each step": (3397,),
    "what waits in memory is forgotten by a release": (845,),
    "a recovery does not judge again what waits": (13745,),
    "a search notes a row again with each stream": (8515,),
    "a recovery judges half a queue again": (149,),
    "rows that an older epoch stood before stay": (9007,),
}

# And the trouble that some of them need.
SHOWN_IN: Final[dict[str, tuple[Misfortune, ...]]] = {
    "nobody looks at the lock behind the fencing": ZOMBIES,
    "a promoted server need not have the marks of a step": FAILOVERS,
    "a promoted server need not know that a step is settled": FAILOVERS,
    "only their place tells which parked rows never were": FAILOVERS,
    "a recovery without a checkpoint does a step again": LOSSES,
    "a queue is released while a recovery publishes": LOSSES,
    "a recovery judges half a queue again": LOSSES,
}
