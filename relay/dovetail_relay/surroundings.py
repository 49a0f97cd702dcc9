"""What the service gives to each reign: what lives as long as the process does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dovetail_relay.config import Settings
from dovetail_relay.health import HealthState
from dovetail_relay.publish.port import Publisher
from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reign is given by the service."""

    settings: Settings
    publisher: Publisher
    registry: BuiltinRegistry
    telemetry: Telemetry
    state: HealthState
    writer: str
    on_step: Callable[[str], None]
    on_streaming: Callable[[], None]
    stopping: Callable[[], bool]
    # True for the first reign of a process only.
    newborn: Callable[[], bool]
    wake_fd: int
