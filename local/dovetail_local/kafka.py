"""Apache Kafka in KRaft mode: every node is broker and controller."""

import base64
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dovetail_local.errors import LocalError
from dovetail_local.plan import Server
from dovetail_local.ports import LOOPBACK

_SMALL = {
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker may come back only when its session has run out: 9 seconds by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # The default keeps 128 MB per partition reserved in the page cache of a laptop.
    "log.cleaner.dedupe.buffer.size": "16777216",
}
# Older versions of Java do not know the cache of classes; its warnings are of no use to anybody here.
_TOLERANT = ("-XX:+IgnoreUnrecognizedVMOptions", "-Xlog:disable")
_QUIET = """\
status=off
appender.file.type=File
appender.file.name=file
appender.file.fileName={log}
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=file
"""
# Kafka 3 calls the older library directly.
_QUIET_BEFORE_4 = """\
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.FileAppender
log4j.appender.file.File={log}
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=%d %p %m (%c)%n
"""


def server_name(node: int) -> str:
    """Name broker `node`, counted from 1."""
    return f"kafka-{node}"


def new_cluster_id() -> str:
    """Make an id in Kafka's own form of a UUID."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Software:
    """What one version of Kafka is made of, on this machine."""

    version: str
    java: Path
    jars: list[Path]
    flags: list[str]
    bootstrap: bytes

    @property
    def logging(self) -> tuple[str, str, str]:
        """Give the logging library's file name, template, and system property."""
        if self.version.startswith("3."):
            return "log4j.properties", _QUIET_BEFORE_4, "log4j.configuration=file:"
        return "log4j2.properties", _QUIET, "log4j2.configurationFile="


@dataclass(frozen=True, slots=True)
class Broker:
    """One node of a cluster."""

    software: Software
    node: int
    cluster_id: str
    ports: Sequence[int]
    controller_ports: Sequence[int]
    directory: Path
    heap: str

    def prepare(self, logs: Path) -> None:
        """Write the settings of this run, and format the data directory where it is new."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._settings_file.write_text(
            "".join(f"{name}={value}\n" for name, value in self._settings().items()), encoding="utf-8"
        )
        name, template, _ = self.software.logging
        (self.directory / name).write_text(template.format(log=logs / f"{server_name(self.node)}.log"))
        data = self.directory / "data"
        if (data / "meta.properties").exists():
            return
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        (data / "bootstrap.checkpoint").write_bytes(self.software.bootstrap)
        # Last, because its presence says that the directory is formatted.
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={self.cluster_id}\nnode.id={self.node}\ndirectory.id={new_cluster_id()}\n"
        )

    def server(self, logs: Path) -> Server:
        """Describe the broker for the supervisor."""
        name, _, option = self.software.logging
        return Server(
            name=server_name(self.node),
            port=self.ports[self.node - 1],
            argv=[
                *java_command(self.software.java, self.heap),
                *self.software.flags,
                f"-D{option}{self.directory / name}",
                "-cp",
                os.pathsep.join(str(jar) for jar in self.software.jars),
                "kafka.Kafka",
                str(self._settings_file),
            ],
            environment=java_environment(),
            log=str(logs / f"{server_name(self.node)}.out"),
            folder=str(self.directory),
            signals={"stop": signal.SIGTERM, "drop": signal.SIGKILL},
            death_signal=signal.SIGKILL,
        )

    @property
    def _settings_file(self) -> Path:
        return self.directory / "server.properties"

    def _settings(self) -> dict[str, str]:
        mine = self.node - 1
        replicas = min(3, len(self.ports))
        voters = (f"{node}@{LOOPBACK}:{port}" for node, port in enumerate(self.controller_ports, 1))
        listener = f"PLAINTEXT://{LOOPBACK}:{self.ports[mine]}"
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listener},CONTROLLER://{LOOPBACK}:{self.controller_ports[mine]}",
            "advertised.listeners": listener,
            "log.dirs": str(self.directory / "data"),
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(max(1, replicas - 1)),
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(max(1, replicas - 1)),
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(max(1, replicas - 1)),
            **_SMALL,
        }


def java_command(java: Path, heap: str) -> list[str]:
    """Give the command for a small Java process that starts fast."""
    return [str(java), f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_TOLERANT]


def java_environment() -> dict[str, str]:
    """Give Java an environment without this shell's options for it."""
    return {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}


def format_once(java: Path, jars: Sequence[Path], scratch: Path) -> bytes:
    """Let Kafka's own tool format a throwaway directory, and give the file that names the version's features.

    The file holds nothing of the one cluster, so every later data directory gets a copy: a second less per broker.
    """
    settings = scratch / "format.properties"
    settings.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
        "listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n"
        f"log.dirs={scratch / 'formatted'}\n"
    )
    classes = os.pathsep.join(str(jar) for jar in jars)
    tool = [*java_command(java, "128m"), "-cp", classes, "kafka.tools.StorageTool"]
    done = subprocess.run(
        [*tool, "format", "-t", new_cluster_id(), "-c", str(settings)],
        capture_output=True,
        text=True,
        check=False,
        env=java_environment(),
    )
    checkpoint = scratch / "formatted" / "bootstrap.checkpoint"
    if done.returncode or not checkpoint.exists():
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise LocalError(f"Kafka cannot format a data directory: {reason}")
    return checkpoint.read_bytes()
