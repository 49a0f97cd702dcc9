"""The named ways in which an operator's command does not go on."""

from __future__ import annotations

from dovetail_relay.errors import Misconfigured


class CommandUnderWay(Misconfigured):
    """Another command of the same class is not settled yet: one operator at a time."""

    name = "COMMAND_UNDER_WAY"
    default_remedy = "the same command with --follow, or wait for its end"


class CommandFailed(Misconfigured):
    """The relay took the command up and could not do it."""

    name = "COMMAND_FAILED"
    default_remedy = "dovetail audit list"
