"""One line per event, no secrets in it, and no flood."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay import logs
from dovetail_relay.errors import KafkaUnavailable
from dovetail_relay.logs import bind, configure, log, redacted
from dovetail_relay.telemetry import LogEvent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    logger = logging.getLogger("dovetail")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logs._bound.clear()


@pytest.fixture
def lines(clock: Clock) -> Callable[[], list[dict[str, Any]]]:
    stream = io.StringIO()
    configure(level="debug", output="json", stream=stream, clock=clock)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


Lines = Callable[[], list[dict[str, Any]]]


def test_a_line_has_time_level_event_message_what_is_bound_and_its_fields(lines: Lines) -> None:
    bind(relay="shop", run_id="r1")
    log(LogEvent.STREAM_STARTED, "streaming", position="0/1", slot="s")
    (line,) = lines()
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "event": "stream_started",
        "message": "streaming",
        "relay": "shop",
        "run_id": "r1",
        "position": "0/1",
        "slot": "s",
    }


def test_a_bound_field_is_removed_by_none(lines: Lines) -> None:
    bind(relay="shop", run_id="r1")
    bind(run_id=None)
    log(LogEvent.RELAY_STARTED)
    assert "run_id" not in lines()[0]


def test_an_event_has_a_level_of_its_own_that_the_caller_may_change(lines: Lines) -> None:
    log(LogEvent.RELAY_HALTED)
    log(LogEvent.RELAY_HALTED, level=logging.INFO)
    assert [line["level"] for line in lines()] == ["error", "info"]


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure(level="warning", output="json", stream=stream)
    log(LogEvent.RELAY_STARTED)
    assert stream.getvalue() == ""


def test_an_error_of_the_tree_is_logged_by_its_name(lines: Lines) -> None:
    log(LogEvent.RETRYING, error=KafkaUnavailable("no broker\nanswers"))
    assert lines()[0]["error"] == "KAFKA_UNAVAILABLE: no broker answers"


def test_only_an_unexpected_error_brings_its_traceback(lines: Lines) -> None:
    try:
        raise RuntimeError("password=hunter2")
    except RuntimeError as error:
        log(LogEvent.UNEXPECTED_ERROR, error=error)
        log(LogEvent.RETRYING, error=error)
    first, second = lines()
    assert "RuntimeError" in first["traceback"]
    assert "hunter2" not in json.dumps(first)
    assert "traceback" not in second


def test_an_error_that_repeats_is_logged_once_then_every_thirty_seconds_with_a_count(
    lines: Lines, clock: Clock
) -> None:
    for second in range(61):
        clock.now = float(second)
        log(LogEvent.RETRYING, "again", error="KAFKA_UNAVAILABLE")
    assert [line.get("repeated") for line in lines()] == [None, 29, 29]


def test_another_error_or_another_event_is_no_repetition(lines: Lines) -> None:
    log(LogEvent.RETRYING, error="A")
    log(LogEvent.RETRYING, error="B")
    log(LogEvent.KAFKA_LOST, error="A")
    log(LogEvent.RETRYING)
    log(LogEvent.RETRYING)
    assert len(lines()) == 5


def test_errors_that_are_never_the_same_do_not_fill_the_memory(lines: Lines) -> None:
    for number in range(1000):
        log(LogEvent.RETRYING, error=f"E{number}")
    handler = logging.getLogger("dovetail").handlers[0]
    (repeats,) = handler.filters
    assert isinstance(repeats, logs.RepeatFilter)
    assert len(repeats._seen) <= 256
    assert len(lines()) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://shop:hunter2@db/shop",
        "postgresql://shop:hunter2@x@db/shop",
        "http://user:hunter2@registry:8081",
        "host=db password=hunter2 user=shop",
        "host=db password = 'hunter2 and more' user=shop",
        "PASSWORD=hunter2",
        '{"password": "hunter2"}',
        "sasl.password=hunter2,sasl.username=x",
        "ssl.key.password=hunter2",
        "basic.auth.user.info=user:hunter2",
    ],
)
def test_what_looks_like_a_credential_is_blanked_out(lines: Lines, text: str) -> None:
    assert "hunter2" not in redacted(text)
    log(LogEvent.RELAY_STARTED, text, dsn=text, nested={"a": [text]}, error=text)
    assert "hunter2" not in json.dumps(lines())


def test_a_field_with_a_telling_name_is_blanked_out_whatever_it_holds(lines: Lines) -> None:
    log(LogEvent.RELAY_STARTED, token="abc", kafka={"sasl.password": "abc"}, api_key=["abc"])
    assert "abc" not in json.dumps(lines())


def test_bytes_are_logged_as_their_size(lines: Lines) -> None:
    log(LogEvent.MESSAGE_STUCK, payload=b"secret")
    assert lines()[0]["payload"] == "6 bytes"


def test_a_field_cannot_take_the_place_of_the_lines_own(lines: Lines) -> None:
    log(LogEvent.RELAY_STARTED, "hello", ts="x", event_="y")
    line = lines()[0]
    assert line["ts_"] == "x"
    assert line["event"] == "relay_started"


def test_a_line_of_a_library_is_in_the_same_form(lines: Lines) -> None:
    logging.getLogger("dovetail.health").warning("%s went away", "client")
    (line,) = lines()
    assert (line["event"], line["logger"]) == ("library_message", "dovetail.health")
    assert line["message"] == "client went away"


def test_text_is_one_line_whatever_comes_in() -> None:
    stream = io.StringIO()
    configure(output="text", stream=stream)
    log(LogEvent.RELAY_STARTED, "two\nlines", note='a\n"b"', count=3, empty="")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('relay_started  two lines  note="a \\"b\\""  count=3  empty=""')


def test_text_cannot_command_the_terminal() -> None:
    stream = io.StringIO()
    configure(output="text", stream=stream)
    log(LogEvent.RELAY_STARTED, "a\x1b[2Jb", note="\x9b2J", error="\x07")
    assert stream.getvalue().strip("\n").isprintable()


def test_a_long_text_is_cut_and_a_credential_at_the_cut_is_still_blanked_out(lines: Lines) -> None:
    log(LogEvent.RELAY_STARTED, "x" * 3970 + " postgresql://shop:" + "hunter2" * 10 + "@db/shop")
    message = lines()[0]["message"]
    assert len(message) <= 4001
    assert "hunter2" not in message


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    stream = io.StringIO()
    configure(stream=stream)
    log(LogEvent.RELAY_STARTED)
    assert json.loads(stream.getvalue())["event"] == "relay_started"


def test_configuring_twice_does_not_write_twice() -> None:
    stream = io.StringIO()
    configure(output="json", stream=stream)
    configure(output="json", stream=stream)
    log(LogEvent.RELAY_STARTED)
    assert len(stream.getvalue().splitlines()) == 1


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text() | st.binary() | st.floats() | st.none(), max_size=3))
def test_any_message_and_fields_make_one_json_line(message: str, fields: dict[str, Any]) -> None:
    stream = io.StringIO()
    configure(output="json", stream=stream)
    for reserved in ("event", "message", "level", "error"):
        fields.pop(reserved, None)
    log(LogEvent.RELAY_STARTED, message, **fields)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert json.loads(text, parse_constant=pytest.fail)["event"] == "relay_started"
