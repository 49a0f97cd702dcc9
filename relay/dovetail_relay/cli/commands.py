"""Which command lives in which module, and a group that imports only the one that is asked for.

`dovetail relay run` must not load what other commands need. So a command is a line in a table until somebody calls it;
only `--help` imports them all.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dovetail_relay.cli.failures import missing_extra


class Place(NamedTuple):
    """`module:attribute`, where the attribute is a Typer app or a plain function."""

    module: str
    attribute: str = "app"
    extra: str = "relay"


# In the order of `--help`. A module that is not installed or not written is left out.
TOP: Mapping[str, Place] = {
    "init": Place("dovetail_relay.cli.init"),
    "doctor": Place("dovetail_relay.cli.doctor"),
    "relay": Place("dovetail_relay.cli.relay"),
    "status": Place("dovetail_relay.cli.status"),
    "tail": Place("dovetail_relay.cli.tail"),
    "stuck": Place("dovetail_relay.cli.stuck"),
    "replay": Place("dovetail_relay.cli.replay"),
    "recover": Place("dovetail_relay.cli.recover"),
    "reconcile": Place("dovetail_relay.cli.reconcile"),
    "schema": Place("dovetail_relay.cli.schema"),
    "inbox": Place("dovetail_relay.cli.inbox"),
    "saga": Place("dovetail_relay.cli.saga"),
    "twophase": Place("dovetail_relay.cli.twophase"),
    "audit": Place("dovetail_relay.cli.audit"),
    "slot": Place("dovetail_relay.cli.slot"),
    "sidecar": Place("dovetail_relay.cli.sidecar"),
    "console": Place("dovetail_relay.cli.console", extra="console"),
    "config": Place("dovetail_relay.cli.config"),
    "local": Place("dovetail_local.cli", extra="local"),
    "demo": Place("dovetail_local.cli", "demo", extra="local"),
    "new": Place("dovetail_local.cli", "new", extra="local"),
    "version": Place("dovetail_relay.cli.version"),
}

RELAY: Mapping[str, Place] = {
    "run": Place("dovetail_relay.cli.relay", "run_app"),
    "accept": Place("dovetail_relay.cli.accept"),
}


def exists(place: Place) -> bool:
    """Whether the module is there, without importing it; its package may not be installed."""
    try:
        return importlib.util.find_spec(place.module) is not None
    except ModuleNotFoundError:
        return False


def build(name: str, place: Place) -> Any:
    """The command behind a place, or one that says which extra it needs; None when the module lacks it."""
    try:
        target = getattr(importlib.import_module(place.module), place.attribute, None)
    except ImportError as error:
        extra = missing_extra(error)
        if extra is None:
            raise
        return _needs_extra(name, extra)
    if target is None:
        return None
    if not isinstance(target, typer.Typer):
        plain = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        plain.command(name)(target)
        target = plain
    command = get_command(target)
    command.name = name
    return command


def _needs_extra(name: str, extra: str) -> Any:
    def refuse(context: typer.Context) -> None:
        raise ImportError(f"{context.command_path} needs the extra {extra}", name=_module_of(extra))

    stub = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    stub.command(
        name,
        help=f"Needs the extra: pip install 'dovetail[{extra}]'.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )(refuse)
    return get_command(stub)


def _module_of(extra: str) -> str:
    return {"local": "dovetail_local", "console": "starlette"}.get(extra, "typer")


class LazyGroup(TyperGroup):
    """A group whose commands are looked up in a table when they are called."""

    places: ClassVar[Mapping[str, Place]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """The names for `--help` and for completion."""
        del ctx
        return [name for name, place in self.places.items() if self._offered(name, place)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command; None for an unknown name."""
        del ctx
        place = self.places.get(cmd_name)
        if place is None:
            return None
        if place.extra == "local" and not exists(place):
            return _needs_extra(cmd_name, place.extra)
        return build(cmd_name, place) if exists(place) else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As usual, but an unknown name gets the nearest known one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            # The base of Typer's own usage errors, wherever this release keeps it.
            usage_error = typer.BadParameter.__mro__[1]
            raise usage_error(f"no such command {args[0]!r}{nearest(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def _offered(self, name: str, place: Place) -> bool:
        return (place.extra == "local" and not exists(place)) or self.get_command(None, name) is not None


class TopCommands(LazyGroup):
    """`dovetail …`."""

    places = TOP


class RelayCommands(LazyGroup):
    """`dovetail relay …`."""

    places = RELAY


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
