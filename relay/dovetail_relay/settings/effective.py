"""Every key with its value as it may be shown, and where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail_relay.settings.dsn import redacted
from dovetail_relay.settings.secret import HIDDEN, Secret

if TYPE_CHECKING:
    from dovetail_relay.config import Settings

_SECTIONS = ("postgres", "kafka", "outbox", "registry", "delivery", "relay", "log")
_KAFKA_OWN = ("bootstrap_servers", "insecure", "allowed_topics")


def effective(settings: Settings) -> list[dict[str, Any]]:
    """`{"key", "value", "from"}` for each key, also those at their default. Contains no secret."""
    return [
        {"key": key, "value": value, "from": settings.origins.get(key, "default")} for key, value in _pairs(settings)
    ]


def _pairs(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in _SECTIONS:
        values = getattr(settings, section)
        names = _KAFKA_OWN if section == "kafka" else [item.name for item in dataclasses.fields(values)]
        for name in names:
            key = f"{section}.{name}"
            yield (
                key,
                list(settings.allowed_topics) if key == "kafka.allowed_topics" else _plain(key, getattr(values, name)),
            )
        if section == "kafka":
            for name, value in sorted(values.properties.items()):
                yield f"kafka.{name}", _plain(name, value)
            for name, path in sorted(values.files.items()):
                yield f"kafka.{name}_file", str(path)
    for route, keys in settings.routes.items():
        for item in dataclasses.fields(keys):
            yield f"routes.{route}.{item.name}", getattr(keys, item.name)
    # The console's keys are its own; nobody here knows which of them are secret.
    for name in sorted(settings.console):
        yield f"console.{name}", HIDDEN


def _plain(key: str, value: object) -> Any:
    if isinstance(value, Secret):
        return redacted(value.reveal()) if key.endswith("dsn") else HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
