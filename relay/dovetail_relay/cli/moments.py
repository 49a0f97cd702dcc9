"""`--since` and `--until`: a moment, or how long ago, written the same way wherever a command takes one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dovetail_relay.reconcile.window import Moment

FORMS = "2026-01-31, 2026-01-31T12:00Z, or 15m, 6h, 3d for so long ago"


def span_of(text: str | None, hint: str) -> Moment | None:
    """An age stays one, for whoever counts it by another clock than ours. Raises a usage error."""
    from dovetail_relay.reconcile.window import moment

    try:
        return None if text is None else moment(text)
    except (ValueError, OverflowError):
        from dovetail_relay.observe.printable import printable, shortened

        raise typer.BadParameter(
            f"{shortened(printable(text), 80)!r} is neither a time such as 2026-01-31T12:00Z nor an age such as 6h",
            param_hint=hint,
        ) from None


def moment_of(text: str | None, hint: str) -> datetime | None:
    """The same, by this machine's clock."""
    found = span_of(text, hint)
    try:
        return datetime.now(UTC) - found if isinstance(found, timedelta) else found
    except OverflowError:
        raise typer.BadParameter(f"{text} is longer ago than any event", param_hint=hint) from None


def moments_of(since: str | None, until: str | None) -> dict[str, datetime | None]:
    """Both ends. One that ends before it begins is refused: nothing was in it, which looks like good news."""
    start, end = moment_of(since, "--since"), moment_of(until, "--until")
    if start is not None and end is not None and end <= start:
        raise typer.BadParameter(f"it lies before --since, {start.isoformat(timespec='seconds')}", param_hint="--until")
    return {"since": start, "until": end}
