"""What `dovetail doctor` hears from the relay itself, if one answers: it may be halted though all else is well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dovetail_relay.config import Settings
from dovetail_relay.observe.facts import ProcessSide
from dovetail_relay.observe.process import look
from dovetail_relay.setup.findings import Finding, ok

_CHECK: Final = "relay.process"


def running(settings: Settings) -> Iterator[Finding]:
    """One finding. That no relay answers is none: it may run elsewhere, or is to be started when all is well."""
    relay = settings.relay
    process = look(relay.http_host, relay.http_port, relay.name, relay.slot)
    if process is None:
        where = "relay.http_port is 0" if relay.http_port == 0 else f"{relay.http_host}:{relay.http_port}"
        yield ok(_CHECK, f"no process of relay {relay.name!r} answers here ({where})")
    else:
        yield finding_of(process)


def finding_of(process: ProcessSide) -> Finding:
    """What one process says of itself. Pure."""
    if process.ready:
        return ok(_CHECK, f"the one at {process.address} is ready" + (" and leads" if process.leads else ""))
    following = process.next or ""
    # Its own word may be to ask the doctor, who has answered by now.
    remedy = "what failed above says it" if following.startswith("dovetail doctor") else following
    if process.halted:
        return Finding(_CHECK, "fail", f"the one at {process.address} has halted: {process.reason}", "ready", remedy)
    return Finding(_CHECK, "warn", f"the one at {process.address} is not ready: {process.reason}", "ready", remedy)
