"""A row that ends the relay's process, for example in a library's C code, is found by counting and parked.

A leader notes in the database where it begins, and that it came on from there. Where several in a row have begun at one
place and never came on, the next takes the rows one by one, and notes each before it touches it. A row is to blame and
parked unseen once three processes ended while they had it in hand, or eight between its note and its commit.

Whoever kills relays at random hits the first row of a process now and then: it takes the longest, and most of that in
Kafka's hands. Three kills within the millisecond before look like poison: `dovetail stuck release` lets the row go.
"""

from __future__ import annotations

from typing import Final

from dovetail_relay.logs import log
from dovetail_relay.nouns import Checkpoint, Place, lsn_text, parse_lsn
from dovetail_relay.source.lead import LockSession
from dovetail_relay.telemetry import LogEvent
from dovetail_schemas.sql import queries

# A crash loop of an orchestrator gets here within a minute; a few kills by hand do not.
MANY_STARTS: Final = 5
# How many processes must have ended at one row before that row is to blame: while they had it in hand, or at all.
IN_HAND: Final = 3
AT_ALL: Final = 8


class Suspicion:
    """One leader's notes. Not thread-safe: over the lock session, by the relay's loop."""

    def __init__(self, session: LockSession, relay: str) -> None:
        self._session = session
        self._relay = relay
        self._began_at: str | None = None
        self._left = 0
        self._ended_at: Place | None = None
        self._noted_at: Place | None = None
        self._noted = self._in_hand = False
        self.feared: Place | None = None

    @property
    def careful(self) -> bool:
        """Whether rows are to be taken one by one."""
        return self._left > 0

    def begin(self, durable: Checkpoint, *, rows_ahead: int) -> None:
        """A new process leads and will take rows from `durable` on; `rows_ahead` may have been in memory before.

        A search that an earlier process began goes on where that one ended.
        """
        self._began_at = _place_text(durable)
        row = self._session.rows(queries["relay_began"], {"relay": self._relay, "at": self._began_at})[0]
        lsn = row["suspect_lsn"]
        if lsn is not None:
            self._ended_at = Place(parse_lsn(lsn), row["suspect_index"])
            starts, lived = row["suspect_starts"], row["suspect_lived"]
            if starts - lived >= IN_HAND or starts >= AT_ALL:
                self.feared = self._ended_at
        if lsn is not None or row["starts"] >= MANY_STARTS:
            self._left = row["suspect_left"] or rows_ahead
            log(
                LogEvent.LOOKING_FOR_POISON,
                "processes ended here before: rows are taken one by one",
                starts=row["starts"],
            )

    def before_each(self, place: Place) -> None:
        """This row is next. Durable before it is touched."""
        self._noted = True
        anew = place not in (self.feared, self._noted_at)
        if anew:
            # Once: a batch that is given up streams again, and the process has not ended at its rows.
            self._noted_at = place
            self._session.rows(
                queries["relay_suspects"],
                {"relay": self._relay, "lsn": lsn_text(place.commit_lsn), "nth": place.nth, "left": self._left},
            )
        self._in_hand = place == self._ended_at != self.feared and (anew or self._in_hand)

    def goes_on(self) -> bool:
        """Asked once the row noted last is through: whether the next one is to be noted too."""
        self._left -= self._noted
        self._noted = False
        return self.careful

    def handed_over(self) -> None:
        """The row is with the Kafka client, and the process lives: worth a note where one has ended at it before."""
        if self._in_hand:
            self._in_hand = False
            self._session.rows(queries["relay_lived"], {"relay": self._relay})

    def look(self, durable: Checkpoint) -> None:
        """Called now and then: once there is progress, and the search is over, the notes are taken back."""
        if self._began_at is not None and not self.careful and _place_text(durable) != self._began_at:
            self.acquit()

    def acquit(self) -> None:
        """The process goes on, or ends in order: no row is to blame."""
        if self._began_at is not None:
            self._began_at = None
            self._session.rows(queries["relay_acquitted"], {"relay": self._relay})


def _place_text(checkpoint: Checkpoint) -> str:
    part = checkpoint.part
    inside = "" if part is None else f"+{lsn_text(part.commit_lsn)}/{part.next_index}"
    return f"{checkpoint.epoch}/{lsn_text(checkpoint.end_lsn)}{inside}"
