"""Which topic a row goes to, and which it can never reach."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dovetail_relay.errors import ConfigInvalid, StuckMessage
from dovetail_relay.route.router import Route, Router, Target, topic_problem


def test_a_type_without_a_route_goes_by_the_template_as_avro_and_is_held_when_stuck() -> None:
    assert Router().target("order") == Target("outbox.event.order", "avro", "hold")


def test_a_route_decides_topic_value_and_policy() -> None:
    router = Router({"order": Route("shop.orders", "passthrough", "halt")})
    assert router.target("order") == Target("shop.orders", "passthrough", "halt")
    assert router.on_stuck("order") == "halt"


def test_a_route_without_a_topic_takes_the_template() -> None:
    router = Router({"order": Route(value="passthrough")}, "events.{aggregatetype}")
    assert router.target("order").topic == "events.order"


def test_a_template_without_the_placeholder_sends_every_type_to_one_topic() -> None:
    router = Router(template="events")
    assert router.target("order").topic == router.target("invoice").topic == "events"
    assert router.topics() == ("events",)


def test_the_topics_of_the_routes_are_known_before_any_row() -> None:
    router = Router({"order": Route("shop.orders"), "invoice": Route(), "refund": Route("shop.orders")})
    assert router.topics() == ("outbox.event.invoice", "shop.orders")


def test_a_decision_is_made_once() -> None:
    router = Router()
    assert router.target("order") is router.target("order")


def test_a_topic_that_is_not_allowed_makes_the_message_stuck_under_its_event_id() -> None:
    router = Router(allowed=["outbox.event.order*"])
    assert router.target("orders").topic == "outbox.event.orders"
    with pytest.raises(StuckMessage) as caught:
        router.target("secret", event_id="id-1")
    assert (caught.value.event_id, caught.value.topic) == ("id-1", "outbox.event.secret")
    assert caught.value.reason == "unroutable"


def test_an_unroutable_type_has_a_policy_all_the_same() -> None:
    assert Router(allowed=[], template="{aggregatetype}").on_stuck("anything") == "hold"


@pytest.mark.parametrize("aggregatetype", ["", "a b", "ä", "a/b", "a\n", "x" * 250, "."])
def test_an_aggregate_type_that_makes_no_topic_name_is_refused_and_not_repeated(aggregatetype: str) -> None:
    router = Router(template="{aggregatetype}", allowed=["*"])
    with pytest.raises(StuckMessage) as caught:
        router.target(aggregatetype, event_id="id-1")
    assert caught.value.topic is None
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("aggregatetype", ["dovetail.checkpoint.shop", "dovetail.schemas", "__consumer_offsets"])
def test_no_row_reaches_the_relays_own_topics_or_kafkas_whatever_is_allowed(aggregatetype: str) -> None:
    router = Router(template="{aggregatetype}", allowed=["*"])
    with pytest.raises(StuckMessage, match="reserved"):
        router.target(aggregatetype)


def test_all_problems_of_a_routing_are_told_at_once() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Router({"a": Route("bad topic"), "b": Route("__x"), "c": Route("other")}, "x y", allowed=["shop.*"])
    assert len(caught.value.problems) == 4


def test_a_bare_placeholder_needs_an_allow_list() -> None:
    with pytest.raises(ConfigInvalid, match="allowed topics"):
        Router(template="{aggregatetype}")
    assert Router(template="{aggregatetype}", allowed=["orders"]).target("orders").topic == "orders"


@given(st.text(max_size=300))
@example("..")
@example("a\0")
def test_every_aggregate_type_gets_a_valid_topic_or_is_stuck(aggregatetype: str) -> None:
    try:
        topic = Router().target(aggregatetype).topic
    except StuckMessage:
        assert topic_problem(f"outbox.event.{aggregatetype}") is not None
    else:
        assert topic_problem(topic) is None
        assert topic == f"outbox.event.{aggregatetype}"


def test_types_beyond_what_is_kept_are_decided_again_and_memory_stays_bounded() -> None:
    router = Router()
    for number in range(10_000):
        router.target(f"t{number}")
    assert len(router._targets) <= 4096
    assert router.target("t0").topic == "outbox.event.t0"
