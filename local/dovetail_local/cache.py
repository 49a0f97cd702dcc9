"""Where downloaded server software is kept: outside of every project, made once per user."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dovetail_local.errors import LocalError


def cache_folder() -> Path:
    """Give the folder for downloads: $XDG_CACHE_HOME/dovetail, ~/.cache/dovetail, or a private temporary one."""
    for candidate in _candidates():
        with contextlib.suppress(OSError):
            candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(candidate, os.W_OK | os.X_OK):
                return candidate
    return _temporary_folder()


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock file while the body runs; wait for whoever holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _candidates() -> Iterator[Path]:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if chosen.startswith("/"):
        yield Path(chosen) / "dovetail"
    with contextlib.suppress(RuntimeError):  # no home is known
        home = Path.home()
        # The home of users like `nobody` does not exist; it is not ours to make.
        if home.is_dir():
            yield home / ".cache" / "dovetail"


def _temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"dovetail-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Anybody can make a folder of this name; programs are run from it.
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise LocalError(f"{folder} is not private to this user: remove it, or set XDG_CACHE_HOME to a writable folder")
    return folder
