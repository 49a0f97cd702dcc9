"""`python -m dovetail_relay` is `dovetail`."""

from __future__ import annotations

import sys

from dovetail_relay.cli import main

if __name__ == "__main__":
    sys.exit(main())
