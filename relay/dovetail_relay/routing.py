"""The router that a configuration describes: the same for the relay, and for whoever looks for what it published."""

from __future__ import annotations

from dovetail_relay.config import Settings
from dovetail_relay.route.router import Route, Router, ValueMode


def router_of(settings: Settings) -> Router:
    """Raises ConfigInvalid."""
    routes = {
        route.aggregatetype: Route(topic=route.topic, value=route.value, on_stuck=route.on_stuck)  # type: ignore[arg-type]
        for route in settings.routes.values()
    }
    default: ValueMode = "passthrough" if settings.outbox.value == "passthrough" else "avro"
    return Router(routes, settings.outbox.topic, settings.allowed_topics, value=default)
