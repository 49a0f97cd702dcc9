"""For systems whose kernel cannot tell a child of its parent's death: a process that does it.

It reads lists of processes from a pipe that the supervisor holds. At the end of the pipe it kills the last list.
"""

import json
import signal
import subprocess
import sys

from dovetail_local.identity import Identity, kill_tree


class Watchdog:
    """The supervisor's side of the pipe."""

    def __init__(self) -> None:
        """Start the process, in a session of its own so that no terminal reaches it."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dovetail_local.watchdog"], stdin=subprocess.PIPE, start_new_session=True
        )

    @classmethod
    def where_needed(cls) -> "Watchdog | None":
        """Start one unless the kernel does the work."""
        return None if sys.platform == "linux" else cls()

    def watch(self, identities: list[Identity]) -> None:
        """Replace the list of processes that must not outlive the supervisor."""
        line = json.dumps([[one.pid, one.started] for one in identities])
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()


def main() -> int:
    """Wait for the end of the pipe, then kill the processes of the last list."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    last = "[]"
    for line in sys.stdin:
        last = line
    for pid, started in json.loads(last):
        kill_tree(Identity(pid, started))
    return 0


if __name__ == "__main__":
    sys.exit(main())
