"""The named ways in which an operator's command does not go on."""

from __future__ import annotations

from dovetail_relay.errors import Misconfigured


class CommandUnderWay(Misconfigured):
    """Another command of the same class is not settled yet: one operator at a time."""

    name = "COMMAND_UNDER_WAY"
    default_remedy = "dovetail audit list"


class CommandFailed(Misconfigured):
    """The relay took the command up and could not do it."""

    name = "COMMAND_FAILED"
    default_remedy = "dovetail audit list"


class ReplayRefused(Misconfigured):
    """The events could be published again, and somebody would be harmed by it."""

    name = "REPLAY_REFUSED"
    default_remedy = "the same command with --force, where every reader can take it"


class SlotActive(Misconfigured):
    """Somebody streams from the slot that is to be dropped."""

    name = "SLOT_ACTIVE"
    default_remedy = "end the relay and its standbys, then the same command"
