"""Teaching Java to start Kafka faster: a cache of loaded classes, made once per version of Kafka and of Java.

A throwaway broker runs and stops in order; Java writes the cache at its end. The next starts take 1.2 seconds
instead of 3. Where this fails, for whatever reason, brokers start without.
"""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

from dovetail_local import control, readiness
from dovetail_local.cache import scratch_folder
from dovetail_local.errors import LocalError
from dovetail_local.kafka import Broker, Software, new_cluster_id, server_name
from dovetail_local.maven import Say
from dovetail_local.plan import Layout, Plan, write_plan
from dovetail_local.ports import free_ports

_NODE = 1
_READY_SECONDS = 60.0
# Writing the cache takes about five seconds; a machine under load gets more.
_WRITE_SECONDS = 60.0


def trained_flags(software: Software, home: Path, say: Say) -> list[str]:
    """Give the Java options that use the cache of classes in `home`, making it where there is none."""
    cache = home / f"classes-{_java_stamp(software.java)}.aot"
    if not cache.exists():
        say(f"preparing a faster start of Kafka {software.version} (about 10 seconds, once)")
        try:
            _train(software, cache)
        except LocalError:
            cache.touch()  # do not try again each time
    return [f"-XX:AOTCache={cache}"] if cache.stat().st_size else []


def _java_stamp(java: Path) -> str:
    """Tell one Java from another by what it is, not by where it lies: every virtual environment has its own copy.

    Java checks for itself whether a cache fits, and starts without it where it does not.
    """
    home = java.resolve().parent.parent
    release, modules = home / "release", home / "lib" / "modules"
    text = release.read_text() if release.exists() else str(home)
    size = modules.stat().st_size if modules.exists() else 0
    return hashlib.sha256(f"{text} {size}".encode()).hexdigest()[:12]


def _train(software: Software, cache: Path) -> None:
    with scratch_folder(cache.parent) as folder:
        layout = Layout(folder)
        layout.logs.mkdir()
        draft = layout.directory / "classes.aot"
        ports = free_ports(2)
        broker = Broker(
            software=replace(software, flags=[f"-XX:AOTCacheOutput={draft}"]),
            node=_NODE,
            cluster_id=new_cluster_id(),
            ports=ports[:1],
            controller_ports=ports[1:],
            directory=layout.directory / "broker",
            heap="256m",
        )
        broker.prepare(layout.logs)
        write_plan(layout.plan, Plan([broker.server(layout.logs)]))
        process = control.launch(layout)
        try:
            _run_once(layout, ports[0])
        finally:
            control.close_lifeline(process)
        if draft.exists():
            draft.replace(cache)
        else:
            cache.touch()


def _run_once(layout: Layout, port: int) -> None:
    """Wait until the broker answers, stop it, and wait until it is gone."""
    deadline = time.monotonic() + _READY_SECONDS
    while not (layout.control.exists() and readiness.broker_answers(port, _NODE)):
        if not control.await_until(deadline):
            raise LocalError("the broker did not answer")
    control.ask(layout, "signal", server=server_name(_NODE), way="stop")
    deadline = time.monotonic() + _WRITE_SECONDS
    while control.ask(layout, "status")[0].pid is not None:
        if not control.await_until(deadline):
            raise LocalError("the broker did not stop")
