"""`python -m support.hasty [STEP NTH]`: the relay with a housekeeping that looks each second, and a killer inside."""

from __future__ import annotations

import sys

from dovetail_relay import housekeeping
from dovetail_relay.config import load
from dovetail_relay.crash import Killer
from dovetail_relay.service import main

if __name__ == "__main__":
    housekeeping.EVERY_SECONDS = 1.0  # type: ignore[misc]
    killer = Killer(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 2 else lambda _step: None
    sys.exit(main(load(None), on_step=killer))
