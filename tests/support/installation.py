"""A configuration of a relay of its own for one test, on the stack's servers."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail_local.endpoints import Endpoints
from dovetail_relay.config import Settings, load
from dovetail_relay.setup.install import Plan, install
from dovetail_relay.setup.steps import Step


def environment(database: Endpoints, **more: str) -> dict[str, str]:
    """Variables of a relay whose name, and so slot and topics, no other test has."""
    return database.environment() | {"DOVETAIL_RELAY__NAME": f"t{secrets.token_hex(6)}"} | more


def settings_of(database: Endpoints, environ: Mapping[str, str] | None = None, **overrides: str) -> Settings:
    """Settings for code under test; `a__b` is the dotted path `a.b`."""
    given = {path.replace("__", "."): value for path, value in overrides.items()}
    return load(None, environment(database) if environ is None else environ, given)


def run_init(settings: Settings, **plan: Any) -> list[Step]:
    """`dovetail init`, silent; a wait for open transactions is an error unless the test expects it."""
    on_wait = plan.pop("on_wait", _not_expected)
    return install(settings, Plan(**plan), lambda _step: None, on_wait)


def states(steps: list[Step]) -> dict[str, str]:
    """what -> state."""
    return {step.what: step.state for step in steps}


def _not_expected(blockers: object) -> None:
    raise AssertionError(f"the slot waits for {blockers}")


def processes_in(folder: str | Path) -> list[int]:
    """Every process that has inherited the folder's name or works in it: a demo, its services, and the servers."""
    name = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if name in words:
            found.append(int(entry.name))
    return found
