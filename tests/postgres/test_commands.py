"""Commands as rows: one at a time, settled once, withdrawn where nobody has taken them up, and audited at both ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from dovetail_local.endpoints import Endpoints
from dovetail_relay.config import Settings
from dovetail_relay.observe.facts import ProcessSide
from dovetail_relay.operate import commands
from dovetail_relay.operate.problems import CommandUnderWay
from dovetail_relay.setup.problems import PermissionMissing
from dovetail_relay.source.commands import Commands
from dovetail_relay.source.lead import LockSession
from support.installation import settings_of
from support.outbox_database import outbox_database
from support.roles import admit_logins
from support.waiting import wait_until

__all__ = ["outbox_database"]


@pytest.fixture
def settings(outbox_database: Endpoints) -> Settings:
    admit_logins(outbox_database)
    return settings_of(outbox_database)


@pytest.fixture
def leader(settings: Settings, outbox_database: Endpoints) -> Iterator[Commands]:
    session = LockSession(outbox_database.relay_dsn, slot=settings.relay.slot, relay=settings.relay.name)
    assert session.try_lead()
    yield Commands(session, settings.relay.name)
    session.close()


def audited(endpoints: Endpoints) -> list[tuple[str, str, str | None]]:
    with psycopg.connect(endpoints.owner_dsn) as connection:
        return connection.execute("SELECT actor, action, reason FROM dovetail.audit_log ORDER BY seq").fetchall()


def test_a_command_is_audited_before_by_the_operator_and_after_by_the_relay(
    settings: Settings, leader: Commands, outbox_database: Endpoints
) -> None:
    command = commands.submit(settings, "recover", {"new_epoch": True}, reason="a fault")
    assert (command.actor, command.state, command.arguments) == ("operator", "pending", {"new_epoch": True})
    assert audited(outbox_database) == [("operator", "recover.asked", "a fault")]
    (seen,) = leader.active("recover", "accept")
    assert seen == command
    assert leader.take(seen)
    leader.progress(seen.id, read=10)
    leader.progress(seen.id, published=3)
    assert leader.settle(seen.id, "done", "all\nis well", published=4)
    assert not leader.settle(seen.id, "failed", "twice")
    end = commands.follow(settings, command.id, lambda _text: None)
    assert (end.state, end.outcome, end.progress) == ("done", "all is well", {"read": 10, "published": 4})
    assert audited(outbox_database)[1:] == [("relay", "recover.done", "a fault")]


def test_a_second_operator_is_told_who_comes_first(settings: Settings, leader: Commands) -> None:
    first = commands.submit(settings, "recover", {}, reason=None)
    with pytest.raises(CommandUnderWay, match=rf"command {first.id} \(recover\) of operator, pending since 20"):
        commands.submit(settings, "recover", {}, reason=None)
    # Of another class, since a recovery may halt for what only this cures.
    commands.submit(settings, "accept", {}, reason="a topic grew")
    desk = commands.submit(settings, "replay", {}, reason=None)
    with pytest.raises(CommandUnderWay, match=rf"command {desk.id} \(replay\)"):
        commands.submit(settings, "release", {}, reason=None)
    assert leader.settle(first.id, "done", "")
    assert commands.submit(settings, "recover", {}, reason=None).id > desk.id


def test_a_pending_command_is_withdrawn_at_once_and_never_taken_up(settings: Settings, leader: Commands) -> None:
    command = commands.submit(settings, "recover", {}, reason=None)
    assert commands.want(settings, command, "withdraw") == "withdrawn"
    assert not leader.take(command)
    assert not leader.active("recover")
    assert commands.follow(settings, command.id, lambda _text: None).outcome == "withdrawn by operator"
    assert commands.want(settings, command, "pause") is None


def test_a_running_command_is_not_withdrawn(settings: Settings, leader: Commands) -> None:
    command = commands.submit(settings, "replay", {}, reason=None)
    assert leader.take(command)
    assert commands.want(settings, command, "withdraw") == "running"
    (seen,) = leader.active("replay")
    assert (seen.state, seen.wanted) == ("running", "withdraw")
    assert leader.take(seen), "after a crash it is taken again"


def test_whoever_follows_hears_what_happens(settings: Settings, leader: Commands) -> None:
    command = commands.submit(settings, "recover", {}, reason=None)
    said: list[str] = []
    ends: list[str] = []
    follower = threading.Thread(
        target=lambda: ends.append(commands.follow(settings, command.id, said.append).state), daemon=True
    )
    follower.start()
    wait_until(lambda: f"command {command.id} waits for the relay" in said, 10, "it waits")
    leader.take(command)
    leader.progress(command.id, events_read=5)
    wait_until(lambda: f"command {command.id} running: events read 5" in said, 10, f"it runs: {said}")
    leader.settle(command.id, "failed", "no")
    follower.join(10)
    assert ends == ["failed"]


def test_nobody_who_leads_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_PATIENCE_SECONDS", 0.1)
    command = commands.submit(settings, "recover", {}, reason=None)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) > 1:
            raise KeyboardInterrupt if len(said) == 2 else AssertionError(text)

    with pytest.raises(AssertionError, match=f"command {command.id} withdrawn; nothing was done"):
        commands.follow(settings, command.id, say)
    assert said[:2] == [
        f"command {command.id} waits: no relay leads just now; a halted one looks every 5 s",
        f"no relay leads: command {command.id} waits for one; next: dovetail relay run",
    ]


def test_a_relay_that_has_halted_is_said_to_and_no_other_one_is_advised(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted = ProcessSide("a:1", ready=False, reason="GAP", next="dovetail recover")
    monkeypatch.setattr(commands, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(commands, "look", lambda *_given: halted)
    command = commands.submit(settings, "release", {}, reason=None)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "has halted" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.follow(settings, command.id, say)
    assert f"the relay has halted (GAP): command {command.id} waits for it; next: dovetail recover" in said
    assert not [text for text in said if "relay run" in text]


def test_the_relays_role_cannot_ask_and_the_operators_cannot_settle(
    settings: Settings, outbox_database: Endpoints
) -> None:
    command = commands.submit(settings, "recover", {}, reason=None)
    forged = settings_of(
        outbox_database, postgres__operator_dsn=outbox_database.relay_dsn, relay__name=settings.relay.name
    )
    with pytest.raises(PermissionMissing):
        commands.submit(forged, "accept", {}, reason=None)
    with psycopg.connect(outbox_database.operator_dsn, autocommit=True) as connection:
        for statement in (
            "UPDATE dovetail.command SET state = 'done'",
            "DELETE FROM dovetail.command",
            "INSERT INTO dovetail.command (relay, kind, actor) VALUES ('x', 'recover', 'somebody')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    assert commands.active(settings, "recover") == command


def test_a_settlement_does_not_wait_for_somebody_who_holds_the_audit_log(
    settings: Settings, leader: Commands, outbox_database: Endpoints
) -> None:
    from dovetail_relay.errors import PostgresUnavailable

    command = commands.submit(settings, "recover", {}, reason=None)
    with psycopg.connect(outbox_database.operator_dsn) as sleeper:
        sleeper.execute("INSERT INTO dovetail.audit_log (action, target) VALUES ('note', 'nothing')")
        with pytest.raises(PostgresUnavailable):
            leader.settle(command.id, "done", "")
        sleeper.rollback()
    assert leader.settle(command.id, "done", "")
