"""The relay's own port, asked over real sockets."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dovetail_relay import health
from dovetail_relay.errors import Gap, Misconfigured
from dovetail_relay.health import HealthServer, HealthState
from dovetail_relay.telemetry import Telemetry
from support.waiting import wait_until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> HealthState:
    return HealthState(clock, limit_seconds=30)


def echo(environ: Any, start_response: Any) -> Iterable[bytes]:
    """In the registry's place: says which path it was asked for."""
    if environ["PATH_INFO"] == "/broken":
        raise RuntimeError("password=hunter2")
    body = environ["REQUEST_URI"].encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def server(state: HealthState, monkeypatch: pytest.MonkeyPatch) -> Iterator[HealthServer]:
    monkeypatch.setattr(health, "_POLL_SECONDS", 0.01)
    running = HealthServer("127.0.0.1", 0, state, echo, Telemetry())
    running.start()
    yield running
    running.stop()


def ask(
    server: HealthServer, path: str, method: str = "GET", body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


# -- what is alive and what is ready ----------------------------------------------------------------------------------


def test_a_relay_that_makes_progress_is_alive_and_one_that_does_not_is_dead_after_the_limit(
    state: HealthState, clock: Clock
) -> None:
    state.ready("leader")
    clock.now += 29.9
    assert state.livez() == (True, {"alive": True, "last_progress_seconds": 29.9})
    clock.now += 0.1
    assert state.livez() == (False, {"alive": False, "last_progress_seconds": 30.0})
    state.progress()
    assert state.alive()


def test_a_streaming_loop_that_only_turns_is_not_progress(state: HealthState, clock: Clock) -> None:
    state.ready("leader")
    clock.now += 40
    state.turned()
    assert not state.alive()


@pytest.mark.parametrize("wait", ["waiting", "halted", "starting"])
def test_a_relay_that_waits_is_alive_as_long_as_its_loop_turns(state: HealthState, clock: Clock, wait: str) -> None:
    if wait == "waiting":
        state.waiting("postgres unreachable", "dovetail doctor")
    elif wait == "halted":
        state.halted(Gap("the slot is ahead"))
    clock.now += 29
    state.turned()
    clock.now += 29
    assert state.alive()
    clock.now += 2
    assert not state.alive()


def test_a_leader_and_a_standby_are_ready_and_a_process_that_starts_is_not(state: HealthState) -> None:
    assert state.readyz() == (False, {"ready": False, "reason": "starting", "next": "nothing: wait"})
    assert not state.was_ready
    state.ready("standby")
    assert state.readyz() == (True, {"ready": True, "role": "standby"})
    state.ready("leader")
    assert state.readyz() == (True, {"ready": True, "role": "leader"})
    assert state.was_ready


def test_a_halt_is_named_with_the_next_command(state: HealthState) -> None:
    state.ready("leader")
    state.halted(Gap("the slot is ahead"))
    assert state.readyz() == (False, {"ready": False, "reason": "GAP", "next": "dovetail recover"})
    assert state.was_ready


def test_a_leader_whose_loop_is_frozen_is_not_ready_either(state: HealthState, clock: Clock) -> None:
    state.ready("leader")
    clock.now += 31
    ready, said = state.readyz()
    assert not ready
    assert said["reason"] == "no progress"


def test_time_may_be_given_by_the_loop_that_has_it_already(state: HealthState, clock: Clock) -> None:
    state.ready("leader", clock.now - 5)
    assert state.silence_seconds() == 5


# -- over the wire ----------------------------------------------------------------------------------------------------


def test_livez_and_readyz_answer_in_one_line_of_json(server: HealthServer, state: HealthState, clock: Clock) -> None:
    status, headers, body = ask(server, "/livez")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body.count(b"\n") == 1
    assert json.loads(body) == {"alive": True, "last_progress_seconds": 0.0}
    assert ask(server, "/readyz")[0] == 503
    state.ready("leader")
    assert ask(server, "/readyz?verbose")[0] == 200
    clock.now += 60
    assert ask(server, "/livez")[0] == 503


def test_metrics_are_prometheus_text_with_the_relays_names(server: HealthServer) -> None:
    status, headers, body = ask(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"dovetail_relay_lag_seconds", "dovetail_events_published", "dovetail_build_info"} <= names


def test_everything_else_goes_to_the_registry_with_its_path_undecoded(server: HealthServer) -> None:
    assert ask(server, "/subjects/a%2Fb/versions?x=1")[2] == b"/subjects/a%2Fb/versions?x=1"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/subjects"])
def test_head_says_what_get_would_without_the_body(server: HealthServer, path: str) -> None:
    got, asked = ask(server, path), ask(server, path, "HEAD")
    assert asked[0] == got[0]
    assert asked[2] == b""
    if path != "/metrics":  # its length changes with every scrape
        assert asked[1]["content-length"] == str(len(got[2]))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(server: HealthServer, path: str, method: str) -> None:
    status, headers, _ = ask(server, path, method, b"x" * 10_000)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_fault_in_the_registry_is_a_500_without_details_and_the_port_lives_on(
    server: HealthServer, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, body = ask(server, "/broken")
    assert status == 500
    assert b"hunter2" not in body
    assert ask(server, "/livez")[0] == 200
    capfd.readouterr()


def test_there_is_no_access_log(server: HealthServer, capfd: pytest.CaptureFixture[str]) -> None:
    ask(server, "/livez")
    assert capfd.readouterr() == ("", "")


# -- starting and stopping --------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named_with_what_to_type(server: HealthServer, state: HealthState) -> None:
    second = HealthServer("127.0.0.1", server.port, state, echo, Telemetry())
    with pytest.raises(Misconfigured) as caught:
        second.start()
    assert str(server.port) in str(caught.value)
    assert caught.value.remedy == "DOVETAIL_RELAY__HTTP_PORT=0 dovetail relay run"
    second.stop()


def test_a_host_that_cannot_be_bound_is_misconfigured(state: HealthState) -> None:
    with pytest.raises(Misconfigured, match=r"192\.0\.2\.1 port 0"):
        HealthServer("192.0.2.1", 0, state, echo, Telemetry()).start()


def test_stop_may_be_called_before_start_and_twice_and_frees_the_port(state: HealthState) -> None:
    server = HealthServer("127.0.0.1", 0, state, echo, Telemetry())
    server.stop()
    server.start()
    server.start()
    port = server.port
    server.stop()
    server.stop()
    assert server.port == port
    again = HealthServer("127.0.0.1", port, state, echo, Telemetry())
    again.start()
    assert ask(again, "/livez")[0] == 200
    again.stop()


def test_the_threads_do_not_keep_the_process_alive(server: HealthServer) -> None:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "dovetail-health"]
    assert thread.daemon


def test_ipv6_can_be_bound(state: HealthState) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    server = HealthServer("::1", 0, state, echo, Telemetry())
    server.start()
    server.stop()


# -- bounds -----------------------------------------------------------------------------------------------------------


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def opened(server: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def test_a_client_that_dribbles_is_cut_off(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_CONNECTION_SECONDS", 0.3)
    started = time.monotonic()
    with opened(server) as slow:

        def dribbled_until_closed() -> bool:
            try:
                slow.setblocking(True)
                slow.sendall(b"G")
            except OSError:
                return True
            return is_closed(slow)

        wait_until(dribbled_until_closed, 10, "the connection is closed")
    assert time.monotonic() - started > 0.2


def test_connections_beyond_the_limit_are_turned_away_and_the_rest_served(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_CONNECTIONS", 2)
    held = [opened(server), opened(server)]
    assert server._server is not None
    taken: Callable[[], bool] = lambda: len(server._server._open) == 2  # type: ignore[union-attr]  # noqa: E731
    wait_until(taken, 10, "both are taken in")
    with opened(server) as third:
        wait_until(lambda: is_closed(third), 10, "the third is turned away")
    for connection in held:
        connection.close()
    wait_until(lambda: not server._server._open, 10, "both are let go")  # type: ignore[union-attr]
    assert ask(server, "/livez")[0] == 200


def test_a_request_line_without_end_is_refused(server: HealthServer) -> None:
    with opened(server) as connection:
        connection.sendall(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
        answer = connection.recv(100)
    assert b"414" in answer


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_stop_the_port(junk: bytes) -> None:
    # One server for all examples: a port per example would be slow, and the point is that this one lives on.
    server = _shared()
    with opened(server) as connection:
        connection.sendall(junk + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass
    assert ask(server, "/livez")[0] == 200


_kept: list[HealthServer] = []


def _shared() -> HealthServer:
    if not _kept:
        _kept.append(HealthServer("127.0.0.1", 0, HealthState(), echo, Telemetry()))
        _kept[0].start()
    return _kept[0]


@pytest.fixture(scope="module", autouse=True)
def stopped() -> Iterator[None]:
    yield
    for server in _kept:
        server.stop()
