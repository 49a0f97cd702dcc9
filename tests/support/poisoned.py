"""A relay that has a flaw: `python -m support.poisoned`, told by its environment.

`SLOW` names a file: while it exists, a flush does not end. At a row whose key holds POISON, `POISONED=kill` ends the
process in the Kafka client, `POISONED=intake` while its record is made, and `POISONED=raise` fails in the relay's code.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from dovetail_relay.config import load
from dovetail_relay.intake import Intake
from dovetail_relay.logs import log
from dovetail_relay.nouns import Record
from dovetail_relay.publish.at_least_once import AtLeastOncePublisher
from dovetail_relay.publish.kafka import KafkaPublisher
from dovetail_relay.publish.port import Outcome
from dovetail_relay.service import main
from dovetail_relay.telemetry import LogEvent
from support.waiting import wait_until

POISON = b"poison"


def slow(step: str) -> None:
    file = Path(os.environ.get("SLOW", "/nonexistent"))
    if step == "flushed" and file.exists():
        log(LogEvent.RETRYING, "slow")
        wait_until(lambda: not file.exists(), 60, "it flows again")


def _kill_at(publisher: Any) -> None:
    send = publisher.send

    def killed(self: Any, records: list[Record]) -> Outcome | None:
        if any(POISON in record.key for record in records):
            os.kill(os.getpid(), signal.SIGKILL)
        return send(self, records)  # type: ignore[no-any-return]

    publisher.send = killed


def _fail_in_the_intake(how: str) -> None:
    make = Intake._record

    def failing(self: Intake, row: Any, prefix: bytes, index: int) -> Record:
        if POISON in row[2]:
            if how == "intake":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("a mistake of ours")
        return make(self, row, prefix, index)

    Intake._record = failing  # type: ignore[method-assign]
    Intake._take_rows = lambda self, frames: None if self.ledger.skipping else self._take_one_by_one(frames)  # type: ignore[method-assign]


def poisoned() -> None:
    how = os.environ.get("POISONED")
    if how == "kill":
        for publisher in (KafkaPublisher, AtLeastOncePublisher):
            _kill_at(publisher)
    elif how in {"intake", "raise"}:
        _fail_in_the_intake(how)


if __name__ == "__main__":
    poisoned()
    sys.exit(main(load(None), on_step=slow))
