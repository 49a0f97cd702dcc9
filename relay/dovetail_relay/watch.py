"""What a leader that streams looks at now and then: the publication, the audit log, commands that come too late."""

from __future__ import annotations

from typing import Final

from dovetail_relay.errors import PublicationChanged
from dovetail_relay.halted import Halted
from dovetail_relay.logs import log
from dovetail_relay.machine import Machine
from dovetail_relay.source.lead import LockSession
from dovetail_relay.telemetry import LogEvent

EVERY_SECONDS: Final = 5.0


class Watch:
    """`look` at each touch of the lock session; it has something to do every five seconds."""

    def __init__(self, session: LockSession, publication: str, halted: Halted) -> None:
        self._session = session
        self._publication = publication
        self._halted = halted
        self._due = 0.0
        # What admission found; None before it.
        self.recorded: str | None = None
        self.recovering: int | None = None

    def look(self, now: float, machine: Machine) -> None:
        """Raises PublicationChanged and PartitionsChanged. A command is refused for having nothing to do after both."""
        if now < self._due or self.recorded is None:
            return
        self._due = now + EVERY_SECONDS
        self._carry_audit(machine)
        # One that loses the outbox, or is dropped (PostgreSQL 18), skips rows without any error.
        if self._session.publication_fingerprint(self._publication) != self.recorded:
            raise PublicationChanged("the publication was changed, or taken away and put back, while it was streaming")
        self._halted.refuse_idle(self.recovering)

    def _carry_audit(self, machine: Machine) -> None:
        """The checkpoint carries the newest entry; one that has gone stays in it, for `dovetail audit verify`."""
        head = self._session.audit_head(machine.audit)
        if head is not None:
            machine.audit = head
        elif machine.audit is not None:
            log(
                LogEvent.AUDIT_REWRITTEN,
                "the audit log is not what the checkpoint knows; next: dovetail audit verify",
                error="AUDIT_BROKEN",
                seq=machine.audit[0],
            )
