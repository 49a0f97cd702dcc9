"""Which topic a row goes to, and which topics a row may never reach.

The topic comes from the relay's configuration: an explicit route, or the template filled with the row's aggregate
type. A row never names a topic by itself, so whoever may insert into the outbox cannot write to a topic of their
choice; what the template yields is checked against the allow-list, and the relay's own topics are always out of reach.

A decision is made once per aggregate type and kept: the hot path is a dictionary look-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final, Literal

from dovetail_relay.errors import ConfigInvalid, StuckMessage

ValueMode = Literal["avro", "passthrough"]
OnStuck = Literal["hold", "halt", "skip"]

DEFAULT_TEMPLATE: Final = "outbox.event.{aggregatetype}"
PLACEHOLDER: Final = "{aggregatetype}"

# Kafka's own rule for topic names, plus its two forbidden names.
_TOPIC: Final = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}\Z")
# A row that reached the checkpoint topic could move the relay's progress; `__` is Kafka's own.
_RESERVED: Final = ("dovetail.checkpoint.", "dovetail.schemas", "__")
# Aggregate types come from rows, so the memory they may take is bounded. A service has tens of them.
_KEPT_TARGETS: Final = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of `[routes.*]`. An empty `topic` is filled from the template."""

    topic: str = ""
    value: ValueMode = "avro"
    on_stuck: OnStuck = "hold"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows of one aggregate type go, and what happens to one of them that cannot."""

    topic: str
    value: ValueMode
    on_stuck: OnStuck


def topic_problem(topic: str) -> str | None:
    """Why `topic` cannot be published to, or None. The answer names the rule, not the row."""
    if not _TOPIC.match(topic):
        return "is not a Kafka topic name (1 to 249 of a-z A-Z 0-9 . _ -)"
    if topic.startswith(_RESERVED):
        return "is reserved for the relay's own topics"
    return None


class Router:
    """Aggregate type → `Target`. Not thread-safe: it belongs to the relay's loop.

    `routes` are keyed by aggregate type. Types without a route go by `template` as `value`, and are held when stuck. A
    template without `{aggregatetype}` sends them all to one topic. `allowed` are topic names or globs; None allows what
    the routes name and the template yields, and is refused for a template that is nothing but the placeholder. Raises
    ConfigInvalid with all problems at once.
    """

    def __init__(
        self,
        routes: Mapping[str, Route] = MappingProxyType({}),
        template: str = DEFAULT_TEMPLATE,
        allowed: Iterable[str] | None = None,
        *,
        value: ValueMode = "avro",
    ) -> None:
        self._template = template
        self._value: ValueMode = value
        self._allowed = None if allowed is None else tuple(allowed)
        self._routes = {
            aggregatetype: Target(route.topic or self._filled(aggregatetype), route.value, route.on_stuck)
            for aggregatetype, route in routes.items()
        }
        self._targets: dict[str, Target] = {}
        problems = self._problems()
        if problems:
            raise ConfigInvalid(problems)

    def target(self, aggregatetype: str, *, event_id: str = "") -> Target:
        """The target, from memory after the first call. Raises StuckMessage (`unroutable`) for `event_id`."""
        target = self._targets.get(aggregatetype)
        if target is None:
            target = self._decide(aggregatetype, event_id)
            if len(self._targets) >= _KEPT_TARGETS:
                self._targets.clear()
            self._targets[aggregatetype] = target
        return target

    def on_stuck(self, aggregatetype: str) -> OnStuck:
        """The policy for a stuck message of this type; there is one for an unroutable type too."""
        route = self._routes.get(aggregatetype)
        return "hold" if route is None else route.on_stuck

    def topics(self) -> tuple[str, ...]:
        """The topics that are known before any row has been seen: those that `init` can create."""
        named = {route.topic for route in self._routes.values()}
        if PLACEHOLDER not in self._template:
            named.add(self._template)
        return tuple(sorted(named))

    def _filled(self, aggregatetype: str) -> str:
        return self._template.replace(PLACEHOLDER, aggregatetype)

    def _is_allowed(self, topic: str) -> bool:
        return self._allowed is None or any(fnmatchcase(topic, pattern) for pattern in self._allowed)

    def _decide(self, aggregatetype: str, event_id: str) -> Target:
        route = self._routes.get(aggregatetype)
        if route is not None:
            return route
        topic = self._filled(aggregatetype)
        problem = self._problem(topic)
        if problem is not None:
            # A name that breaks Kafka's rule may hold anything, also a line break or a whole secret: not repeated.
            named = topic if _TOPIC.match(topic) else None
            shown = f"topic {topic}" if named else f"the topic for an aggregate type of {len(aggregatetype)} characters"
            message = f"{shown} {problem}; add a route or an allowed topic"
            raise StuckMessage(message, event_id=event_id, topic=named, reason="unroutable")
        return Target(topic, self._value, "hold")

    def _problem(self, topic: str) -> str | None:
        return topic_problem(topic) or (None if self._is_allowed(topic) else "is not on the allow-list")

    def _problems(self) -> list[str]:
        problems = []
        if self._template.count(PLACEHOLDER) > 1 or topic_problem(self._template.replace(PLACEHOLDER, "x")) is not None:
            problems.append(f"outbox.topic: {self._template!r} does not yield a Kafka topic name")
        if self._template == PLACEHOLDER and self._allowed is None:
            problems.append("outbox.topic: a bare {aggregatetype} lets rows choose any topic; set the allowed topics")
        for name, route in self._routes.items():
            problem = self._problem(route.topic)
            if problem is not None:
                problems.append(f"routes: topic {route.topic!r} of {name!r} {problem}")
        return problems
