"""The relay's own HTTP port: is it alive, is it ready, its metrics, and the registry's reads.

Liveness is real progress: a read from PostgreSQL (keepalives count) or a standby's successful poll of the lock. A
relay that waits for an unreachable server is alive as long as its loop turns: a restart would not bring the server
back. A loop that stands still is not alive, whatever its sockets say.

The port carries no payload and no secret, and nothing can be changed through it. It is served by daemon threads,
bounded in number, size and time, so that nobody who can reach it can hold the relay up or keep it from stopping.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from dovetail_relay.errors import Halt, Misconfigured
from dovetail_relay.telemetry import LogEvent, Telemetry

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Role = Literal["leader", "standby"]

# A walsender that hears nothing speaks after wal_sender_timeout / 2, 30 s by default; the relay asks far more often.
DEFAULT_LIMIT_SECONDS: Final = 30.0

# A scrape, two probes and some deserializers; what comes beyond is turned away rather than queued.
_CONNECTIONS: Final = 64
# For one silent read, and for a whole connection: a client that sends a byte now and then is cut off too.
_SILENCE_SECONDS: Final = 5.0
_CONNECTION_SECONDS: Final = 15.0
# The body of a refused write is read up to here, so that the answer is not lost with a reset connection.
_DRAINED_BYTES: Final = 65_536
_POLL_SECONDS: Final = 0.2


class _Readiness(NamedTuple):
    """One immutable value, replaced as a whole: readers on other threads never see half a change."""

    role: Role | None
    reason: str
    next: str


class HealthState:
    """Written by the relay's loop, read by the HTTP threads. `clock` is monotonic, in seconds.

    While the relay is ready only `progress` keeps it alive. While it waits, is halted or starts, every `turned` does.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, limit_seconds: float = DEFAULT_LIMIT_SECONDS
    ) -> None:
        self._clock = clock
        self._limit = limit_seconds
        self._last = clock()
        self._readiness = _Readiness(None, "starting", "nothing: wait")
        self._was_ready = False

    def progress(self, now: float | None = None) -> None:
        """Something came from PostgreSQL, a keepalive included, or a standby polled the lock."""
        self._last = self._clock() if now is None else now

    def turned(self, now: float | None = None) -> None:
        """The loop turned without a word from PostgreSQL. Counts only while the relay is not ready."""
        if self._readiness.role is None:
            self.progress(now)

    def ready(self, role: Role, now: float | None = None) -> None:
        """A leader that streams, or a standby that can poll."""
        self._readiness = _Readiness(role, "", "")
        self._was_ready = True
        self.progress(now)

    def waiting(self, reason: str, next_command: str, now: float | None = None) -> None:
        """Not ready, and the loop turns: `waiting("postgres unreachable", "dovetail doctor")` at each attempt."""
        self._readiness = _Readiness(None, reason, next_command)
        self.progress(now)

    def halted(self, halt: Halt, now: float | None = None) -> None:
        """Not ready until an operator acts; a halted relay still turns and stays alive."""
        self.waiting(halt.name, halt.remedy, now)

    @property
    def was_ready(self) -> bool:
        """Whether this process has been ready at least once."""
        return self._was_ready

    def silence_seconds(self) -> float:
        """Since the last sign of life."""
        return max(0.0, self._clock() - self._last)

    def alive(self) -> bool:
        return self.silence_seconds() < self._limit

    def livez(self) -> tuple[bool, dict[str, object]]:
        """The answer of /livez."""
        alive = self.alive()
        return alive, {"alive": alive, "last_progress_seconds": round(self.silence_seconds(), 3)}

    def readyz(self) -> tuple[bool, dict[str, object]]:
        """The answer of /readyz: whether, and else why not and what to type next."""
        role, reason, next_command = self._readiness
        if role is None:
            return False, {"ready": False, "reason": reason, "next": next_command}
        if not self.alive():
            return False, {"ready": False, "reason": "no progress", "next": "dovetail status"}
        return True, {"ready": True, "role": role}


class HealthServer:
    """`start()` returns when the port is bound, `stop()` may be called twice and before `start()`.

    Port 0 takes a free one; `port` says which. A port that cannot be had raises Misconfigured.
    """

    def __init__(
        self, host: str, port: int, state: HealthState, registry_app: WSGIApplication, telemetry: Telemetry
    ) -> None:
        self._host = host
        self._port = port
        self._app = _routes(state, registry_app, make_wsgi_app(telemetry.registry))
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The bound port; before `start()` the one that was asked for."""
        return self._port if self._server is None else self._server.server_port

    def start(self) -> None:
        if self._server is not None:
            return
        try:
            server = _Server(self._host, self._port)
        except (OSError, OverflowError) as error:
            raise _unbindable(self._host, self._port, error) from error
        server.set_app(self._app)
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_SECONDS,), name="dovetail-health", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Frees the port. Requests that are being answered are not waited for."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        self._port = server.server_port
        server.shutdown()
        server.server_close()
        self._thread.join()
        self._thread = None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._open: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for the host's full name, which can take half a minute without a resolver.
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            full = len(self._open) >= _CONNECTIONS
            if not full:
                self._open[request] = time.monotonic()
        if full:
            super().shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called between polls: cut off whoever has been here too long."""
        oldest = time.monotonic() - _CONNECTION_SECONDS
        with self._open_lock:
            late = [request for request, since in self._open.items() if since < oldest]
            for request in late:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing; socketserver would print a traceback to stderr."""
        del request, client_address
        _logger.debug(LogEvent.HEALTH_REQUEST_FAILED, exc_info=sys.exc_info())


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_SECONDS

    def get_environ(self) -> WSGIEnvironment:
        environ = super().get_environ()
        # PATH_INFO is percent-decoded: a subject with a slash in it could no longer be told from two segments.
        environ["REQUEST_URI"] = self.path
        return environ

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the parent's
        """No access log: probes would drown everything else."""

    def address_string(self) -> str:
        return str(self.client_address[0])


_logger: Final = logging.getLogger("dovetail.health")


def _routes(state: HealthState, registry_app: WSGIApplication, metrics_app: WSGIApplication) -> WSGIApplication:
    probes = {"/livez": state.livez, "/readyz": state.readyz}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        reads = environ["REQUEST_METHOD"] in {"GET", "HEAD"}
        if not reads and (path in probes or path == "/metrics"):
            _drain(environ)
            body = _answer(start_response, "405 Method Not Allowed", {"message": "only GET and HEAD"})
        elif path in probes:
            body = _probe(start_response, probes[path])
        elif path == "/metrics":
            # prometheus-client refuses HEAD; what is left out of its answer is left out below.
            body = list(metrics_app({**environ, "REQUEST_METHOD": "GET"}, start_response))
        else:
            body = _guarded(registry_app, environ, start_response)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    return app


def _guarded(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    try:
        return list(app(environ, start_response))
    except Exception:
        # wsgiref would print the traceback to stderr, past the log's redaction.
        _logger.exception(LogEvent.HEALTH_REQUEST_FAILED)
        return _answer(start_response, "500 Internal Server Error", {"message": "see the relay's log"})


def _probe(start_response: StartResponse, probe: Callable[[], tuple[bool, dict[str, object]]]) -> list[bytes]:
    good, said = probe()
    return _answer(start_response, "200 OK" if good else "503 Service Unavailable", said)


def _answer(start_response: StartResponse, status: str, said: dict[str, object]) -> list[bytes]:
    body = json.dumps(said).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if status.startswith("405"):
        headers.append(("Allow", "GET, HEAD"))
    start_response(status, headers)
    return [body]


def _drain(environ: WSGIEnvironment) -> None:
    length = environ.get("CONTENT_LENGTH") or "0"
    if length.isascii() and length.isdigit():
        with suppress(OSError):
            environ["wsgi.input"].read(min(int(length[:9]), _DRAINED_BYTES))


def _unbindable(host: str, port: int, error: Exception) -> Misconfigured:
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    why = "is taken" if taken else f"cannot be bound ({getattr(error, 'strerror', None) or error})"
    remedy = "DOVETAIL_RELAY__HTTP_PORT=0 dovetail relay run" if taken else "dovetail config show"
    return Misconfigured(f"{host} port {port} for /livez, /readyz and /metrics {why}; set another", remedy=remedy)
