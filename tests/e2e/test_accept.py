"""`dovetail relay accept`: what an operator has seen is recorded once, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka.admin import NewPartitions, NewTopic

from dovetail_local.stack import Stack
from dovetail_relay.operate.commands import follow, submit
from dovetail_relay.operate.diagnosis import diagnose
from support.losses import client
from support.operator import dovetail, dovetail_json
from support.waiting import wait_until
from support.world import PARTITIONS, World, new_world


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with new_world(stack) as made:
        yield made


def executed(world: World, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(world.endpoints.owner_dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def grown(world: World) -> None:
    client(world).create_partitions([NewPartitions(world.topic, PARTITIONS + 1)])[world.topic].result()
    wait_until(
        lambda: len(client(world).list_topics(timeout=5).topics[world.topic].partitions) == PARTITIONS + 1, 10, "grown"
    )


def test_a_topic_that_grew_is_accepted_and_the_relay_goes_on(world: World) -> None:
    with world.writers(count=1):
        world.relay().wait_streaming().kill()
        grown(world)
        relay = world.relay().wait_for_log("relay_halted")
        shown = dovetail_json(world, "relay", "accept", "--dry-run")
        assert shown["partitions"] == {world.topic: f"{PARTITIONS} recorded, {PARTITIONS + 1} now"}
        assert executed(world, "SELECT count(*) FROM dovetail.command") == [(0,)]
        end = dovetail_json(world, "relay", "accept", "--reason", "more consumers", "--yes")
        assert (end["state"], end["partitions"]) == ("done", {world.topic: PARTITIONS + 1})
        relay.wait_streaming()
    world.wait_until_published()
    audited = executed(
        world, "SELECT actor, action, reason, before -> 'partitions', after -> 'partitions' FROM dovetail.audit_log"
    )
    assert audited[0][:3] == ("operator", "accept.asked", "more consumers")
    assert audited[0][3][world.topic] == PARTITIONS  # type: ignore[index]
    assert audited[1] == ("relay", "accept.done", "more consumers", None, {world.topic: PARTITIONS + 1})
    code, _, err = dovetail(world, "relay", "accept", "--reason", "again", "--yes")
    assert (code, "NOTHING_CHANGED" in err) == (5, True), err


def test_a_topic_that_grew_is_accepted_before_the_relay_that_streams_has_noticed(world: World) -> None:
    relay = world.relay().wait_streaming()
    grown(world)
    end = dovetail_json(world, "relay", "accept", "--reason", "more consumers", "--yes")
    assert (end["state"], end["partitions"]) == ("done", {world.topic: PARTITIONS + 1})
    assert relay.has_logged("relay_halted"), "it was not refused as having nothing to do"
    wait_until(lambda: relay.get("/readyz")[0] == 200, 20, "the relay goes on")


def test_a_topic_that_is_made_anew_with_more_partitions_under_a_running_relay_is_to_be_accepted(world: World) -> None:
    topic, admin = world.topic, client(world)
    admin.delete_topics([topic])[topic].result()
    wait_until(lambda: topic not in admin.list_topics(timeout=5).topics, 10, "the topic is gone")
    relay = world.relay().wait_streaming()
    admin.create_topics([NewTopic(topic, PARTITIONS + 1, 1)])[topic].result()
    wait_until(lambda: topic in admin.list_topics(timeout=5).topics, 10, "the topic is there again")
    with world.writers(count=1):
        relay.wait_for_log("relay_halted")
        assert world.read_topic() == []
        end = dovetail_json(world, "relay", "accept", "--reason", "more consumers", "--yes")
        assert (end["state"], end["partitions"]) == ("done", {topic: PARTITIONS + 1})
    world.wait_until_published()


MADE_AGAIN = (
    "BEGIN; DROP PUBLICATION dovetail; CREATE PUBLICATION dovetail FOR TABLE dovetail.outbox"
    " (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers, created_at)"
    " WITH (publish = 'insert', publish_via_partition_root = true); COMMIT"
)


def test_a_publication_that_was_made_again_is_accepted_only_as_it_was_seen(world: World) -> None:
    world.relay().wait_streaming().kill()
    executed(world, MADE_AGAIN)
    seen = diagnose(world.settings())
    assert seen.halt is not None
    assert seen.halt.name == "PUBLICATION_CHANGED"
    arguments = {"publication": seen.facts.publication_fingerprint, "partitions": {}}
    executed(world, MADE_AGAIN)
    first = submit(world.settings(), "accept", arguments, reason="an extension wants it")
    relay = world.relay()
    end = follow(world.settings(), first.id, lambda _text: None)
    assert (end.state, "not what you saw" in (end.outcome or "")) == ("failed", True)
    code, out, err = dovetail(world, "relay", "accept", "--reason", "it is well", "--yes")
    assert code == 0, out + err
    assert "insert of dovetail.outbox (" in err
    assert "dovetail reconcile" in err
    relay.wait_streaming()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER PUBLICATION dovetail SET (publish = 'insert, delete')", "it publishes delete as well"),
        (
            "ALTER PUBLICATION dovetail SET TABLE dovetail.outbox;"
            " ALTER PUBLICATION dovetail SET (publish_via_partition_root = false)",
            "publish_via_partition_root is off",
        ),
        ("ALTER TABLE dovetail.outbox_1 SET UNLOGGED", "dovetail.outbox_1 is not logged"),
    ],
)
def test_a_publication_that_the_doctor_fails_is_not_accepted_by_the_command_nor_by_the_relay(
    world: World, change: str, problem: str
) -> None:
    world.relay().wait_streaming().kill()
    executed(world, change)
    code, _, err = dovetail(world, "relay", "accept", "--reason", "so be it", "--yes")
    assert (code, f"the publication is not fit: {problem}" in err, "dovetail doctor" in err) == (1, True, True), err
    arguments = {"publication": diagnose(world.settings()).facts.publication_fingerprint, "partitions": {}}
    asked = submit(world.settings(), "accept", arguments, reason="so be it")
    world.relay()
    end = follow(world.settings(), asked.id, lambda _text: None)
    assert (end.state, f"the publication is not fit: {problem}" in (end.outcome or "")) == ("failed", True)


def test_a_publication_that_is_gone_cannot_be_accepted(world: World) -> None:
    world.relay().wait_streaming().kill()
    executed(world, "DROP PUBLICATION dovetail")
    code, _, err = dovetail(world, "relay", "accept", "--reason", "so be it", "--yes")
    assert (code, "PUBLICATION_CHANGED: publication 'dovetail' does not exist" in err) == (1, True), err


def test_a_reason_must_be_given(world: World) -> None:
    code, _, err = dovetail(world, "relay", "accept", "--yes")
    assert (code, "--reason" in err) == (2, True), err
