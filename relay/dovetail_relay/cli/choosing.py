"""The options by which operators' commands choose events, and those that they share; what they mean."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from dovetail_relay.cli.moments import FORMS, moments_of

EventId = Annotated[str | None, typer.Option("--id", help="This event.", envvar="DOVETAIL_ID")]
Key = Annotated[str | None, typer.Option("--key", help="Events of this key (aggregateid).", envvar="DOVETAIL_KEY")]
Type = Annotated[str | None, typer.Option("--type", help="Events of this type.", envvar="DOVETAIL_TYPE")]
Class = Annotated[
    str | None,
    typer.Option("--class", help="Messages stuck for this reason: schema, refused, topic …", envvar="DOVETAIL_CLASS"),
]
Since = Annotated[str | None, typer.Option("--since", help=f"From this time on: {FORMS}.", envvar="DOVETAIL_SINCE")]
Until = Annotated[
    str | None, typer.Option("--until", help="Before this time, written like --since.", envvar="DOVETAIL_UNTIL")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which events.", envvar="DOVETAIL_DRY_RUN")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; for the audit log.", envvar="DOVETAIL_REASON")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Follow the one that is under way; go on with a paused one.",
                       envvar="DOVETAIL_FOLLOW")
]  # fmt: skip
Withdraw = Annotated[
    bool, typer.Option("--withdraw", help="End the one that is under way; what was done stays.",
                       envvar="DOVETAIL_WITHDRAW")
]  # fmt: skip
Rate = Annotated[
    float | None, typer.Option("--rate", min=0.1, help="At most so many events per second.", envvar="DOVETAIL_RATE")
]


def uuid_of(text: str, hint: str = "--id") -> UUID:
    """An event's id. Raises a usage error that shows what was given, shortened."""
    try:
        return UUID(text)
    except ValueError:
        from dovetail_relay.observe.printable import printable, shortened

        raise typer.BadParameter(f"{shortened(printable(text), 80)!r} is not a UUID", param_hint=hint) from None


def chosen_by(
    *,
    event_id: str | None = None,
    key: str | None = None,
    event_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """The filter as the queries take it; None chooses everything."""
    _known_class(reason)
    return {
        "id": None if event_id is None else uuid_of(event_id),
        "key": key,
        "type": event_type,
        "class": reason,
        **moments_of(since, until),
    }


def _known_class(reason: str | None) -> None:
    """A word that nothing is ever parked under would choose nothing, which looks like good news."""
    from dovetail_relay.observe.advice import REASONS

    if reason is not None and reason not in REASONS:
        from dovetail_relay.observe.printable import printable, shortened

        raise typer.BadParameter(
            f"{shortened(printable(reason), 80)!r} is none of {', '.join(REASONS)}", param_hint="--class"
        )
