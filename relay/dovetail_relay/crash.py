"""`python -m dovetail_relay.crash STEP [NTH] …`: the relay, killed by its own hand at the NTH pass of a named step.

For tests of the promises, ours and yours: production code has no test hook, only an injected `on_step`. The steps, in
order: lead, fenced, read, admitted, streaming, begin, half, produced, flushed, checkpoint_produced, checkpoint_flushed,
committed, confirmed; where a row is parked, parked; and those of a recovery: taken, slot_dropped, slot_made, rebased,
read_back, backfilled. What follows is as for `dovetail relay run`.
"""

from __future__ import annotations

import os
import signal
import sys

from dovetail_relay.config import load
from dovetail_relay.service import main

STEPS = (
    "lead", "fenced", "read", "admitted", "streaming", "begin", "half", "produced", "flushed", "checkpoint_produced",
    "checkpoint_flushed", "committed", "confirmed",
)  # fmt: skip
# Passed only where there is something to park, or a command to perform.
RARE_STEPS = ("parked",)

RECOVERY_STEPS = ("taken", "slot_dropped", "slot_made", "rebased", "read_back", "backfilled")


class Killer:
    """Ends this process by SIGKILL, as an out-of-memory killer would: nothing is flushed, no handler runs."""

    def __init__(self, step: str, nth: int) -> None:
        known = STEPS + RARE_STEPS + RECOVERY_STEPS
        if step not in known:
            raise SystemExit(f"dovetail: {step!r} is no step; the steps are {', '.join(known)}")
        self._step = step
        self._left = nth

    def __call__(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    nth_pass = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.exit(main(load(None), on_step=Killer(sys.argv[1], nth_pass)))
