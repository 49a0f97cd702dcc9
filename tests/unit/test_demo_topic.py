"""The demo's own decoding agrees with the contract, and refuses what is not in it."""

import pytest

from dovetail.event import EventType
from dovetail_local.demo.books import Order
from dovetail_local.demo.chaos import schedule
from dovetail_local.demo.events import OrderPlaced
from dovetail_local.demo.topic import Decoder, Unreadable
from dovetail_schemas.avro import frame

CODEC = EventType.of(OrderPlaced).codec


def test_a_value_of_the_sdk_is_read_without_the_sdk():
    asked = []

    def definition(schema_id):
        asked.append(schema_id)
        return CODEC.normalised

    decoder = Decoder(definition)
    for number in (1, 2):
        body = CODEC.encode(OrderPlaced("anna", number, "hat"))
        assert decoder.order(frame(CODEC.schema_id, body)) == Order("anna", number, "hat")
    assert asked == [CODEC.schema_id]


@pytest.mark.parametrize("value", [None, b"", b"\x00\x00\x00", b"\x01\x00\x00\x00\x07body"])
def test_a_value_without_the_frame_is_refused(value):
    with pytest.raises(Unreadable):
        Decoder(lambda _: '"string"').order(value)


def test_a_value_that_is_no_record_is_refused():
    with pytest.raises(Unreadable):
        Decoder(lambda _: '"string"').order(b"\x00\x00\x00\x00\x07\x06hat")


@pytest.mark.parametrize(("seconds", "kills"), [(1, 2), (7.9, 2), (8, 3), (20, 3)])
def test_kills_come_in_turn_and_within_the_time(seconds, kills):
    plan = schedule(seconds)
    victims = [victim for _, victim in plan.kills]
    assert (victims.count("relay"), victims.count("shipping")) == (kills, 1)
    assert plan.kills == sorted(plan.kills)
    assert plan.due(0) is None
    while plan.kills:
        moment, victim = plan.kills[0]
        assert 0 < moment < seconds
        assert plan.due(moment) == victim
        plan.done()
    assert plan.due(1000) is None
