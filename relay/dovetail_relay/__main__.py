"""`python -m dovetail_relay` is `dovetail`."""

from __future__ import annotations

from dovetail_relay.cli import main

if __name__ == "__main__":
    main()
