"""`python -m support.stopped_at STEP NTH`: a relay that stops itself (SIGSTOP) once, at the NTH pass of a step."""

import os
import signal
import sys

from dovetail_relay.config import load
from dovetail_relay.service import main

_step, _nth = sys.argv[1], int(sys.argv[2])
_passes = 0


def _stop(step: str) -> None:
    global _passes
    if step == _step:
        _passes += 1
        if _passes == _nth:
            os.kill(os.getpid(), signal.SIGSTOP)


sys.exit(main(load(None), on_step=_stop))
