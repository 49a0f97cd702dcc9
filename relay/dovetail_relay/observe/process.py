"""What a relay process says of itself on its HTTP port."""

from __future__ import annotations

import json
import math
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from dovetail_relay.observe.facts import ProcessSide

# It is on this machine or one hop away; a relay that cannot answer in this time is not asked for more.
TIMEOUT_SECONDS: Final = 1.5
_MOST_BYTES: Final = 4 << 20

# Where a listener on all addresses is reached from here.
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def look(host: str, port: int, relay: str, slot: str) -> ProcessSide | None:
    """The process at `host`:`port`, None when nobody answers or it is not a process of this relay."""
    if port == 0:
        return None
    host = _ANYWHERE.get(host, host)
    try:
        ready_body = _get(host, port, "/readyz")
        metrics = _get(host, port, "/metrics").decode("utf-8", "replace")
        return read(f"{host}:{port}", ready_body, metrics, relay, slot)
    except (OSError, HTTPException, ValueError):
        return None


def read(address: str, readyz: bytes, metrics: str, relay: str, slot: str) -> ProcessSide | None:
    """The answers of /readyz and /metrics as facts. Pure; raises ValueError for what no relay of ours says."""
    said: Any = json.loads(readyz)
    if not isinstance(said, dict) or not isinstance(said.get("ready"), bool):
        raise ValueError("not a relay's /readyz")  # noqa: TRY004 - what came is not the caller's type error
    samples = _samples(metrics)
    mine = any(
        labels.get("relay") == relay and labels.get("slot") == slot
        for labels, _ in samples.get("dovetail_relay_info", ())
    )
    if not mine:
        return None
    balanced = _value(samples, "dovetail_books_balanced")
    return ProcessSide(
        address=address,
        ready=said["ready"],
        role=_text(said.get("role")),
        reason=_text(said.get("reason")),
        next=_text(said.get("next")),
        leads=_value(samples, "dovetail_relay_leader") == 1,
        lag_events=_value(samples, "dovetail_relay_lag_events"),
        lag_seconds=_value(samples, "dovetail_relay_lag_seconds"),
        books_balanced=None if balanced is None else balanced == 1,
    )


def _samples(metrics: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    return found


def _value(samples: dict[str, list[tuple[dict[str, str], float]]], name: str) -> float | None:
    value = next((value for _, value in samples.get(name, ())), None)
    return None if value is None or not math.isfinite(value) else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _get(host: str, port: int, path: str) -> bytes:
    connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(_MOST_BYTES)
    finally:
        connection.close()
