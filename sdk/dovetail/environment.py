"""What a service takes from the environment where it says nothing: the variables that `dovetail local env` prints.

They are the relay's own names, so that a service and its relay are told where the servers are in one way. Values are
taken as they are: nothing is added, no file `dovetail.toml` is read.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dovetail.errors import NotConfigured

DATABASE = "DOVETAIL_POSTGRES__APP_DSN"
BROKERS = "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS"

_KAFKA = "DOVETAIL_KAFKA__"
_FILE = "_FILE"
# The relay's own keys of that section; librdkafka knows nothing of them.
_NOT_LIBRDKAFKA = {"INSECURE", "ALLOWED_TOPICS"}
_TOPIC = "outbox.event.{aggregatetype}"


def database() -> str:
    """The DSN of the service's role. Raises `NotConfigured`."""
    return _required(DATABASE, "pass a DSN")


def kafka(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """librdkafka properties: `DOVETAIL_KAFKA__SASL_MECHANISM` is `sasl.mechanism`, `…_FILE` names a file that holds it.

    Raises `NotConfigured` where there are no brokers or such a file cannot be read.
    """
    found = {"bootstrap.servers": _required(BROKERS, "pass the bootstrap servers", environ)}
    for variable, value in environ.items():
        name = variable.removeprefix(_KAFKA)
        if name == variable or name in _NOT_LIBRDKAFKA:
            continue
        if name.endswith(_FILE):
            found[_property(name.removesuffix(_FILE))] = _content(variable, value)
        else:
            found[_property(name)] = value
    return found


def topics(aggregates: Iterable[str]) -> list[str]:
    """Where the events of these aggregates go: a route's variable, else the template's, else its default."""
    template = os.environ.get("DOVETAIL_OUTBOX__TOPIC", _TOPIC)
    found = (
        os.environ.get(f"DOVETAIL_ROUTES__{re.sub('[-.]', '_', name).upper()}__TOPIC")
        or template.replace("{aggregatetype}", name)
        for name in aggregates
    )
    return sorted(set(found))


def _required(variable: str, otherwise: str, environ: Mapping[str, str] = os.environ) -> str:
    value = environ.get(variable)
    if not value:
        raise NotConfigured(
            f'{variable} is not set; set it, {otherwise}, or for local servers: eval "$(dovetail local env)"'
        )
    return value


def _property(name: str) -> str:
    return name.lower().replace("_", ".")


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise NotConfigured(f"{variable}: {path[:80]} cannot be read: {reason}") from None
