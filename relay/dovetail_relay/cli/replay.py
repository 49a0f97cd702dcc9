"""`dovetail replay`: events that were published, once more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dovetail_relay.cli.choosing import (
    DryRun,
    Follow,
    Key,
    Rate,
    Reason,
    Since,
    Type,
    Until,
    Withdraw,
    Yes,
    uuid_of,
)
from dovetail_relay.cli.failures import NothingToDo
from dovetail_relay.cli.invocation import Invocation, invocation
from dovetail_relay.cli.moments import moments_of
from dovetail_relay.cli.operator import NEEDS, confirmed, joined, print_one, reason_of, say_one, see_through
from dovetail_relay.cli.words import say

if TYPE_CHECKING:
    from dovetail_relay.config import Settings
    from dovetail_relay.operate.replay import Found

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

_SHOWN_IDS = 5
# What goes into the audit log of a long list.
_AUDITED_IDS = 100


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was given on the command line, in words as it goes into the audit log, and as the query takes it."""

    words: dict[str, Any]
    choice: dict[str, Any]
    topic: str | None
    rate: float | None


@app.command("replay")
def replay(
    context: typer.Context,
    *,
    event_ids: Annotated[
        list[str] | None, typer.Option("--id", help="This event; may be given several times.", envvar="DOVETAIL_ID")
    ] = None,
    key: Key = None,
    event_type: Type = None,
    since: Since = None,
    until: Until = None,
    lsn: Annotated[
        str | None, typer.Option("--lsn", metavar="FROM..TO", help="Events of transactions that committed in here, in "
                                 "the relay's present epoch; for earlier ones: --since and --until.",
                                 envvar="DOVETAIL_LSN")
    ] = None,
    to_topic: Annotated[
        str | None, typer.Option("--to-topic", help="Another topic than their own.", envvar="DOVETAIL_TO_TOPIC")
    ] = None,
    rate: Rate = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first so many of them.", envvar="DOVETAIL_LIMIT")
    ] = None,
    dry_run: DryRun = False,
    reason: Reason = None,
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also into compacted topics, and what is older than an inbox knows.")
    ] = False,
    follow: Follow = False,
    withdraw: Withdraw = False,
) -> None:  # fmt: skip
    """Publish events once more: the same ids, with a header `replay`. An inbox takes none of them twice."""
    given = invocation(context)
    why = reason_of(reason, required=not (dry_run or follow or withdraw))
    settings = given.settings(needs=NEEDS)
    if joined(settings, "replay", given.output, why, follow=follow, withdraw=withdraw, dry_run=dry_run):
        return
    _refuse_foreign(settings)
    words = {"ids": event_ids, "key": key, "type": event_type, "since": since, "until": until, "lsn": lsn}
    if not any(words.values()):
        raise typer.BadParameter("say which ones: --id, --key, --type, --since, --until or --lsn")
    ids = [uuid_of(text) for text in event_ids] if event_ids else None
    moments = moments_of(since, until)
    choice = {"ids": ids, "key": key, "type": event_type, **moments, "limit": limit}
    # Moments as such: an age like 2h means another one by the time that somebody reads it.
    asked = _Asked(
        {**words, **{at: m and m.isoformat() for at, m in moments.items()}, "limit": limit}, choice, to_topic, rate
    )
    _replay(given, settings, asked, dry_run=dry_run, reason=why, yes=yes, force=force)


def _refuse_foreign(settings: Settings) -> None:
    if settings.outbox.foreign:
        raise typer.BadParameter(
            f"events of {settings.outbox.table} cannot be replayed: only dovetail.outbox keeps what was published",
            param_hint="outbox.table",
        )


def _replay(
    given: Invocation, settings: Settings, asked: _Asked, *, dry_run: bool, reason: str | None, yes: bool, force: bool
) -> None:
    from dovetail_relay.operate.replay import ask, ids

    if asked.topic is not None and not settings.topic_allowed(asked.topic):
        raise typer.BadParameter("it is not on the allow-list (kafka.allowed_topics)", param_hint="--to-topic")
    epoch = _narrow(settings, asked)
    found = _found(settings, asked, epoch)
    topics = _per_topic(settings, asked, found)
    plan = {
        "events": found.events,
        "first": found.first,
        "last": found.last,
        "topics": topics,
        "seconds": None if asked.rate is None else round(found.events / asked.rate, 1),
    }
    against = _against(settings, asked, found, topics)
    if dry_run:
        _print_plan(given, plan, against, ids(settings, asked.choice, found))
        return
    if against and not force:
        from dovetail_relay.operate.problems import ReplayRefused

        raise ReplayRefused("; ".join(against))
    say_one(plan)
    confirmed(f"Publish {found.events} events again?", yes=yes)
    named = asked.words["ids"]
    words = {**asked.words, "ids": named[:_AUDITED_IDS] if named else None}
    arguments = {name: value for name, value in words.items() if value is not None}
    command = ask(settings, asked.choice, found, {**arguments, "topic": asked.topic, "rate": asked.rate}, reason=reason)
    see_through(settings, command, given.output, pausable=True, total=found.events)


def _narrow(settings: Settings, asked: _Asked) -> int | None:
    """A range of the log as ids: only the topics know which events it holds. The epoch that it was looked for in."""
    if asked.words["lsn"] is None:
        return None
    from dovetail_relay.observe.between import published
    from dovetail_relay.observe.topics import topics_of
    from dovetail_relay.setup.connect import session
    from dovetail_relay.setup.slot import relay_row

    first, last = _range(asked.words["lsn"])
    with session(settings, "operator") as connection:
        row = relay_row(connection, settings)
    epoch = row["epoch"] if row else 1
    say(f"looking for the range in the topics, in epoch {epoch}")
    with topics_of(settings) as topics:
        found = published(topics, settings, epoch, first, last)
    by_time = "an LSN means another place in each epoch: choose those by --since and --until"
    if found.others:
        each = ", ".join(f"{events} of epoch {other}" for other, events in found.others.items())
        say(f"left out: events with such a position, {each}; {by_time}")
    named = asked.choice["ids"]
    asked.choice["ids"] = found.ids if named is None else [event_id for event_id in found.ids if event_id in set(named)]
    return int(epoch)


def _range(text: str) -> tuple[Any, Any]:
    from dovetail_relay.observe.printable import printable, shortened

    first, dots, last = text.partition("..")
    try:
        found = _lsn(first), _lsn(last if dots else first)
    except ValueError:
        found = None
    if found is None or found[0] > found[1]:
        raise typer.BadParameter(
            f"{shortened(printable(text), 80)!r} is no range; write 0/16B3740..0/16C0000, the smaller one first, or "
            "one position as status shows it",
            param_hint="--lsn",
        )
    return found


def _lsn(text: str) -> Any:
    """An LSN; also out of a position as `status` and `stuck list` show it: epoch/LSN/index, or LSN/index."""
    from dovetail_relay.nouns import parse_lsn

    parts = text.split("/")
    if len(parts) == 3 and len(parts[1]) == 16:
        return parse_lsn(f"{parts[1][:8]}/{parts[1][8:]}")  # as the header `position` has it
    return parse_lsn(text if len(parts) == 2 else "/".join(parts[-3:-1]))


def _found(settings: Settings, asked: _Asked, epoch: int | None) -> Found:
    from dovetail_relay.operate.replay import count, not_kept

    found = count(settings, asked.choice)
    # A range of the log also finds what relays of other databases have published there.
    by_name = epoch is None and asked.choice["ids"]
    missing = not_kept(settings, asked.choice["ids"]) if by_name else []
    why = "emptied after outbox.retention_days, emitted as a message of the log, or never written"
    if found is None and epoch is not None:
        raise NothingToDo(
            f"NOT_KEPT: the outbox holds no event that was published from {asked.words['lsn']} in epoch {epoch}; "
            "nothing was published; next: dovetail replay --since … --until … --dry-run"
        )
    if found is None:
        reason = f"these events are not in the outbox: {why}" if missing else "the outbox holds no such event"
        raise NothingToDo(f"NOT_KEPT: {reason}; nothing was published; next: dovetail status EVENT_ID")
    if missing:
        more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
        say(f"left out, not in the outbox ({why}): {', '.join(map(str, missing[:_SHOWN_IDS]))}{more}")
    return found


def _per_topic(settings: Settings, asked: _Asked, found: Found) -> dict[str, int]:
    """Where they would go; those of a type that may go nowhere are left to the relay, which counts them."""
    from dovetail_relay.errors import StuckMessage
    from dovetail_relay.observe.trace import topic_of

    if asked.topic is not None:
        return {asked.topic: found.events}
    topics: dict[str, int] = {}
    for aggregatetype, events in found.types.items():
        try:
            topic = topic_of(settings, aggregatetype, "")
        except StuckMessage as stuck:
            say(f"{events} events of {aggregatetype!r} cannot go out: {stuck}")
        else:
            topics[topic] = topics.get(topic, 0) + events
    return topics


def _against(settings: Settings, asked: _Asked, found: Found, topics: dict[str, int]) -> list[str]:
    from dovetail_relay.operate.replay import WINDOW_DAYS, unfit

    against = unfit(settings, topics)
    if asked.topic in against and not against[asked.topic].startswith("has"):
        raise typer.BadParameter(f"topic {asked.topic} {against[asked.topic]}", param_hint="--to-topic")
    said = [f"topic {topic} {why}" for topic, why in against.items()]
    if found.too_old:
        said.append(f"{found.too_old} events are older than the {WINDOW_DAYS} days for which an inbox knows them")
    return said


def _print_plan(given: Invocation, plan: dict[str, Any], against: list[str], ids: Iterator[str]) -> None:
    whole = {"command": "replay", **plan, "against": against}
    if given.output != "table":
        whole["ids"] = list(ids)
    print_one(whole, given.output)
    say("nothing was published")
