"""Under which user PostgreSQL runs, and what that user can reach.

PostgreSQL refuses to run as root. Started by root, it runs under an existing user without rights; no user is made.
"""

import contextlib
import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dovetail_local.errors import LocalError

_UNPRIVILEGED = ("nobody", "postgres", "daemon")


@dataclass(frozen=True, slots=True)
class Account:
    """A user and its first group."""

    uid: int
    gid: int

    def can_pass(self, folder: Path) -> bool:
        """Tell whether this user can go through `folder` and everything above it."""
        return all(self._may(parent, stat.S_IXUSR) for parent in [folder, *folder.parents])

    def can_read_tree(self, folder: Path) -> bool:
        """Tell whether this user can go to `folder` and read there; files inside are taken to be like it."""
        return self.can_pass(folder) and self._may(folder, stat.S_IRUSR)

    def _may(self, path: Path, owner_bit: int) -> bool:
        try:
            found = path.stat()
        except OSError:
            return False
        if found.st_uid == self.uid:
            return bool(found.st_mode & owner_bit)
        if found.st_gid == self.gid:
            return bool(found.st_mode & (owner_bit >> 3))
        return bool(found.st_mode & (owner_bit >> 6))


def server_account(data: Path) -> Account | None:
    """Give the user to run PostgreSQL on `data` under, None where it is the current one."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        found = data.stat()
        return Account(found.st_uid, found.st_gid)
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    names = ", ".join(_UNPRIVILEGED)
    raise LocalError(
        f"PostgreSQL does not run as root, and this system has none of the users {names}: start it as an ordinary user"
    )


def passable_parent(account: Account) -> Path:
    """Find a folder for temporary files that `account` can reach."""
    for parent in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/tmp")):  # noqa: S108 - nothing is shared there
        if account.can_pass(parent):
            return parent
    raise LocalError("no folder for temporary files is open to ordinary users: set TMPDIR to one that is")


def passable_folder(account: Account, prefix: str) -> Path:
    """Make a fresh folder that `account` owns and can reach."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=passable_parent(account)))
    os.chown(folder, account.uid, account.gid)
    return folder
