"""`python -m support.counted`: a relay that says at each lead how many reigns it has in memory."""

import gc
import sys

from dovetail_relay.config import load
from dovetail_relay.logs import log
from dovetail_relay.reign import Reign
from dovetail_relay.service import main
from dovetail_relay.telemetry import LogEvent


def on_step(step: str) -> None:
    if step == "lead":
        log(LogEvent.RETRYING, "reigns in memory", reigns=sum(isinstance(found, Reign) for found in gc.get_objects()))


if __name__ == "__main__":
    sys.exit(main(load(None), on_step=on_step))
