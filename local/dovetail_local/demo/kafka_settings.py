"""How a client of the demo finds Kafka: the same variables as the relay's, under librdkafka's own names."""

from collections.abc import Mapping
from pathlib import Path

Properties = dict[str, str | int | float | bool]

_PREFIX = "DOVETAIL_KAFKA__"
# Dovetail's own keys in that section, which librdkafka does not know.
_NOT_A_PROPERTY = frozenset({"insecure", "allowed.topics"})


def client_properties(environ: Mapping[str, str]) -> Properties:
    """`DOVETAIL_KAFKA__SASL_USERNAME` becomes `sasl.username`; a `_FILE` variable gives what the file holds."""
    found: Properties = {}
    for variable, value in environ.items():
        name = variable.removeprefix(_PREFIX).lower().replace("_", ".")
        if variable == name or not variable.startswith(_PREFIX) or name in _NOT_A_PROPERTY:
            continue
        if name.endswith(".file"):
            found[name.removesuffix(".file")] = Path(value).read_text("utf-8").strip()
        else:
            found[name] = value
    return found
