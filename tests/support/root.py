"""What only root can give: small disks that run full, and memory that ends."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dovetail_local.stack import temporary_folder
from support.waiting import wait_until

# Each tool, and the package that has it.
TOOLS = {"mount": "mount", "umount": "mount", "cp": "coreutils"}
MEGABYTE = 1 << 20


class NotPossible(Exception):
    """This machine or this user cannot run the tests; one line that says why."""


def demand() -> None:
    """Root and the tools, which are installed where they are missing. Raises NotPossible."""
    if os.geteuid() != 0:
        raise NotPossible("tests/full mounts disks and limits memory, which only root may: sudo make test-full")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None and not _installed(tool, package):
            raise NotPossible(f"tests/full needs {tool!r}, and apt cannot install it: install the package {package}")


def _installed(tool: str, package: str) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        for words in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *words], capture_output=True, timeout=120, check=False)
    return shutil.which(tool) is not None


def _run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.strip()}"


class SmallDisks:
    """Folders put on disks of their own. Whoever works in them is ended before `close`."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []
        # Each step is tried, whatever becomes of the others.
        self._undo = contextlib.ExitStack()

    def folder(self) -> Path:
        """A folder for a stack, gone with the disks in it: the stack cannot remove what is mounted."""
        made = temporary_folder()
        self._undo.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    def put(self, folder: Path, *, spare_mb: int) -> None:
        """Give `folder` a disk for what is in it and `spare_mb` more; nobody may have it open."""
        folder = folder.resolve()
        found, aside = folder.stat(), folder.with_name(folder.name + ".aside")
        used = sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
        folder.rename(aside)
        folder.mkdir()
        size = used + spare_mb * MEGABYTE
        who = f"size={size},uid={found.st_uid},gid={found.st_gid},mode={found.st_mode & 0o7777:o}"
        _run("mount", "-t", "tmpfs", "-o", who, "dovetail-test", folder)
        # Lazily: a process that has not quite ended must not keep a disk mounted for ever.
        self._undo.callback(_run, "umount", "--lazy", folder)
        self._mounted.append(folder)
        _run("cp", "-a", f"{aside}/.", folder)
        shutil.rmtree(aside)

    def make_space(self, *, megabytes: int = 1024) -> None:
        """What an operator does: more room on every disk."""
        for folder in self._mounted:
            _run("mount", "-o", f"remount,size={megabytes}m", folder)

    def close(self) -> None:
        """Take every disk away, with what is on it."""
        self._undo.close()


class Memory:
    """A limit for processes that are started through it; `close` when they have ended."""

    def __init__(self, megabytes: int) -> None:
        self._bytes = megabytes * MEGABYTE
        self._group = _new_group(self._bytes)

    @property
    def is_group(self) -> bool:
        """Whether it is a control group; else RLIMIT_DATA, which counts what may be written and not only what is."""
        return self._group is not None

    def peak_mb(self, pid: int) -> int:
        """The most that was counted so far."""
        for name in ("memory.peak", "memory.max_usage_in_bytes", "memory.current"):
            if self._group is not None and (self._group / name).exists():
                return int((self._group / name).read_text()) // MEGABYTE
        return int(Path(f"/proc/{pid}/status").read_text().split("VmData:")[1].split()[0]) // 1024

    def arguments(self, *command: str) -> tuple[str, ...]:
        """For RelayProcess: the command, under the limit from its first page on."""
        return "-m", "support.root", str(self._group or ""), str(self._bytes), *command

    def close(self) -> None:
        if self._group is not None:
            group = self._group
            # The kernel lets go of an ended process a moment after it was waited for.
            wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, f"nobody is left in {group}")
            group.rmdir()


def _new_group(limit: int) -> Path | None:
    """A control group with a limit of memory, below or beside our own; None where this machine lets us make none."""
    for place in _own_groups():
        group = place / f"dovetail-test-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            group.mkdir()
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (group / name).exists():
                    (group / name).write_text(str(limit))
                    if (group / "memory.swap.max").exists():
                        (group / "memory.swap.max").write_text("0")
                    return group
            group.rmdir()
    return None


def _own_groups() -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for _, at, kind, options, *_ in mounts:
            if kind == "cgroup" and controllers == "memory" and "memory" in options.split(","):
                yield Path(at) / path.lstrip("/")
            elif kind == "cgroup2" and not controllers:
                # A group of version 2 that has processes has no limited children: ours are beside it.
                yield (Path(at) / path.lstrip("/")).parent if path != "/" else Path(at)


def _main(group: str, limit: str, *command: str) -> None:
    """Become `command` under the limit."""
    if group:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    _main(*sys.argv[1:])
