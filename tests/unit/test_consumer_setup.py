"""What a consumer refuses before it connects to anything."""

import pytest

from dovetail.kafka import Consumer
from support.shop import OrderPlaced, OrderShipped


def record(_conn, _delivery):
    """A handler that is never called."""


@pytest.mark.parametrize(
    "kafka",
    [{"enable.auto.commit": True}, {"isolation.level": "read_uncommitted"}, {"enable.auto.offset.store": "true"}],
)
def test_a_setting_that_would_break_the_promise_is_refused(kafka):
    with pytest.raises(ValueError, match="the inbox rests on it"):
        Consumer(kafka, consumer="c", topics=["t"], database="", handler=record)


def test_topics_must_be_a_list():
    with pytest.raises(ValueError, match="list of topic names"):
        Consumer("localhost:9092", consumer="c", topics="orders", database="", handler=record)


def test_a_decorated_handler_stays_the_function_that_it_is():
    consumer = Consumer("localhost:9092", consumer="c", database="")
    assert consumer.on(OrderPlaced, OrderShipped)(record) is record


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"topics": ["t"]}, "the consumer has no handler: @consumer.on"),
        ({"handler": record}, "topics must be named where no types are"),
    ],
)
def test_a_consumer_that_lacks_something_says_so_before_it_connects(given, said):
    with pytest.raises(ValueError, match=said):
        Consumer("localhost:1", consumer="c", database="", **given).run()


def test_a_type_with_two_handlers_or_a_handler_without_a_type_is_refused():
    consumer = Consumer("localhost:9092", consumer="c", database="")
    consumer.on(OrderPlaced)(record)
    with pytest.raises(ValueError, match="OrderPlaced has a handler already"):
        consumer.on(OrderPlaced)(print)
    with pytest.raises(ValueError, match=r"@consumer\.on\(OrderPlaced\)"):
        consumer.on()
