"""`python -m support.planted BUG`: the relay with one rule broken on purpose. The checker must bite."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dovetail_relay import admission
from dovetail_relay.config import load
from dovetail_relay.crash import Killer
from dovetail_relay.ledger import Ledger
from dovetail_relay.nouns import Lsn, Record
from dovetail_relay.route.mapper import Mapper
from dovetail_relay.service import main
from dovetail_relay.source.replication import ReplicationStream

# So many events go through before one is lost.
LOST_AT = 100


def checkpoint_ignored() -> None:
    """Go on from where the slot stands, as a relay without a checkpoint in Kafka would."""
    honest = admission.admit

    def admit(facts: Any, row: Any, found: Any, history: Any) -> Any:
        admitted = honest(facts, row, found, history)
        return admitted and replace(admitted, end_lsn=facts.confirmed_flush, part=None)

    admission.admit = admit


def confirms_what_it_received() -> None:
    """Report the newest position that was read, as a client that acknowledges on receipt would."""
    honest = ReplicationStream.read

    def read(self: ReplicationStream, *limits: int) -> list[bytes]:
        frames = honest(self, *limits)
        for frame in frames:
            # A Commit's end LSN, as it comes in.
            if frame[25:26] == b"C":
                self.report(Lsn(int.from_bytes(frame[35:43], "big")))
        return frames

    ReplicationStream.read = read  # type: ignore[method-assign]


def dies_of_poison() -> None:
    """End at the first sight of a row of key `poison`, as a fault in a library's C code would."""
    honest = Mapper.record

    def record(self: Mapper, row: Any, position_prefix: bytes, index: int) -> Any:
        if row[2] == b"poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, row, position_prefix, index)

    Mapper.record = record  # type: ignore[method-assign]


def loses_an_event() -> None:
    """Drop one record on its way from the stream to the batch, once, when a hundred have passed."""
    honest, passed = Ledger.add, 0

    def add(self: Ledger, records: list[Record], **sizes: Any) -> None:
        nonlocal passed
        lost = passed < LOST_AT <= passed + len(records)
        passed += len(records)
        honest(self, records[1:] if lost else records, **sizes)

    Ledger.add = add  # type: ignore[assignment,method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "checkpoint_ignored": checkpoint_ignored,
    "confirms_what_it_received": confirms_what_it_received,
    "dies_of_poison": dies_of_poison,
    "loses_an_event": loses_an_event,
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    killer = Killer(sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else lambda _step: None
    sys.exit(main(load(None), on_step=killer))
