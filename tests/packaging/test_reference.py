"""The reference pages say what the code says: no name more, no name less."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import dovetail_relay
from dovetail_relay.errors import ConfigInvalid, Halt, Restart, Retry
from dovetail_relay.settings import sections
from dovetail_relay.telemetry import METRICS, LogEvent

REFERENCE = Path(__file__).parents[2] / "docs/reference"
SECTIONS = {
    "postgres": sections.Postgres,
    "kafka": sections.Kafka,
    "outbox": sections.Outbox,
    "routes.<name>": sections.Route,
    "registry": sections.Registry,
    "delivery": sections.DeliverySection,
    "relay": sections.Relay,
    "log": sections.Log,
}
# What the page says in prose: every other librdkafka property.
IN_PROSE = {("kafka", "properties"), ("kafka", "files")}


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each table row that begins with a `name`."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" |")]


def below(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*map(below, kind.__subclasses__()))


def all_errors(kind: type[Exception]) -> set[type[Exception]]:
    """Every class of ours below `kind`, with all of the relay's modules imported."""
    for module in pkgutil.walk_packages(dovetail_relay.__path__, "dovetail_relay."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {error for error in below(kind) if error.__module__.startswith("dovetail_relay.")}


def test_every_halt_is_in_its_table_with_its_remedy() -> None:
    told = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(page("halts.md"))}
    known = {error.name: error.default_remedy for error in all_errors(Halt) if error is not Halt}
    assert ConfigInvalid.name in known
    assert told == known


def test_every_other_stop_is_named() -> None:
    text = page("halts.md")
    for error in all_errors(Retry) | all_errors(Restart):
        if error not in {Retry, Restart}:
            assert f"`{error.name}`" in text


def test_every_metric_is_in_the_table_as_it_is() -> None:
    told = {tuple(cells) for cells in rows(page("metrics.md"))}
    labels = {metric.name: ", ".join(f"`{label}`" for label in metric.labels) for metric in METRICS}
    assert told == {(f"`{metric.name}`", metric.kind, labels[metric.name], metric.help) for metric in METRICS}


def test_every_log_event_is_listed() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", page("metrics.md").partition("## Log events")[2]))
    assert listed - {"event"} == {event.value for event in LogEvent}


def test_every_key_is_in_its_section_with_its_default() -> None:
    parts = re.split(r"^## `\[(.+?)\]`$", page("configuration.md"), flags=re.MULTILINE)
    told = {
        (section, cells[0].strip("`")): cells[1]
        for section, text in zip(parts[1::2], parts[2::2], strict=True)
        for cells in rows(text)
    }
    known = {(section, key.name): key for section, kind in SECTIONS.items() for key in dataclasses.fields(kind)}
    assert told.keys() == known.keys() - IN_PROSE
    for place, default in told.items():
        if default.startswith("`"):
            assert default.strip("`") == shown(known[place]), place
        else:
            assert known[place].default in {None, "", dataclasses.MISSING}, place


def shown(key: dataclasses.Field[object]) -> str:
    value = key.default_factory() if key.default is dataclasses.MISSING else key.default  # type: ignore[misc]
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    return str(value) if value != {} else "{}"
