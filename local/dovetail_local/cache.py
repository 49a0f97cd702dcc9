"""Where downloaded server software is kept: outside of every project, made once per user."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dovetail_local.errors import LocalError

_UNFINISHED = "unfinished-"


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
    """Hold a lock file while the body runs; wait for whoever holds it. Makes the file, and its folder."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it may have removed it, and then others lock another file of this name.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                yield
                return


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a folder in `parent` that goes at the end of the body, and remove those that killed processes have left.

    The caller holds a lock of `parent`: nobody else is at work there.
    """
    for left in parent.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=parent) as name:
        yield Path(name)


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
    return own_folder(Path(tempfile.gettempdir()) / f"dovetail-cache-{os.getuid()}", 0o700)


def own_folder(folder: Path, mode: int) -> Path:
    """Make a folder with a name that others can guess, and refuse one that another user has made before."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(mode)
    found = folder.lstat()
    # Programs are run from it.
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o777 & ~mode:
        raise LocalError(f"{folder} was not made by this user alone: remove it, or set TMPDIR to a folder of your own")
    return folder
