"""The replication slot, looked at and dropped: the one thing that an operator can undo with no relay's help."""

from __future__ import annotations

from typing import Any, Final

from psycopg import errors as pg

from dovetail_relay.config import Settings
from dovetail_relay.errors import SlotLost
from dovetail_relay.observe.database import role_of
from dovetail_relay.operate.problems import SlotActive
from dovetail_relay.setup.connect import session
from dovetail_relay.setup.migrate import applied
from dovetail_relay.setup.slot import relay_row, slot_facts
from dovetail_relay.source.commands import audit
from dovetail_schemas.sql import queries

# What there is depends on the server's release.
SHOWN: Final = (
    "slot_name", "plugin", "database", "active", "active_pid", "wal_status", "restart_lsn", "confirmed_flush_lsn",
    "retained_bytes", "safe_wal_size", "inactive_since", "invalidation_reason", "failover", "synced",
)  # fmt: skip


def shown(settings: Settings) -> dict[str, Any] | None:
    """What the server says of the relay's slot; None where there is none."""
    with session(settings, role_of(settings)) as connection:
        facts = slot_facts(connection, settings.relay.slot)
    return None if facts is None else {name: facts[name] for name in SHOWN if facts.get(name) is not None}


def made_by(settings: Settings) -> str:
    """The command that makes a slot that is not there: another one where a relay has been set up, for it was lost."""
    with session(settings, role_of(settings)) as connection:
        known = applied(connection) and relay_row(connection, settings) is not None
    return SlotLost.default_remedy if known else "dovetail init"


def drop(settings: Settings, facts: dict[str, Any], *, reason: str) -> None:
    """Drop it: asked for and done as the operator in the audit log, by the relay's role on the server.

    Raises SlotActive where somebody streams from it; then it is still there, and the log says so too.
    """
    slot = settings.relay.slot
    _refuse_active(slot, facts)
    target = f"slot {slot}"
    with session(settings, "operator") as operator, session(settings, "relay") as relay:
        audit(operator, "slot_drop.asked", target, reason=reason, before=facts)
        try:
            relay.execute(queries["slot_drop"], {"slot": slot})
        except pg.ObjectInUse:
            audit(operator, "slot_drop.failed", target, reason=reason, after={"why": "it is active"})
            _refuse_active(slot, slot_facts(relay, slot) or {"active": True})
            raise
        audit(operator, "slot_drop.done", target, reason=reason)


def _refuse_active(slot: str, facts: dict[str, Any]) -> None:
    if facts["active"]:
        raise SlotActive(
            f"slot {slot} is in use by PostgreSQL backend pid {facts.get('active_pid', '?')}; it was not dropped"
        )
