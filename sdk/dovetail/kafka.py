"""A consumer on confluent-kafka: each event takes effect once, whatever dies in between.

Every batch is one database transaction: a receipt per message, the handler for the fresh ones, COMMIT; only then are
the offsets committed to Kafka. A crash between the two brings the batch again, and the inbox knows it. A message that
keeps failing stops the consumer with its name; none is ever skipped.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import psycopg

from dovetail import environment, errors
from dovetail.event import EventType
from dovetail.inbox import Delivery, Schemas
from dovetail.psycopg import Inbox, connect
from dovetail_schemas import headers as header_names
from dovetail_schemas.sql import queries

Handler = Callable[[psycopg.Connection[Any], Delivery], object]
Connect = Callable[[], psycopg.Connection[Any]]
_H = TypeVar("_H", bound=Handler)

# What the promise rests on; a configuration that sets one of these otherwise is refused.
_PROMISES = {"isolation.level": "read_committed", "enable.auto.commit": False, "enable.auto.offset.store": False}
_DEFAULTS = {"auto.offset.reset": "earliest"}
_POLL_SECONDS = 0.5
_POLL_INTERVAL_MS = 300_000  # librdkafka's own default
_SILENCE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# Trying again cannot help these; the message itself is at fault.
_HOPELESS = (
    errors.BadMessage,
    errors.DecodeError,
    errors.EventFromFuture,
    errors.EventTooOld,
    errors.NotInstalled,
    errors.SchemaInvalid,
    errors.SchemaUnknown,
)

_log = logging.getLogger(__name__)


class Consumer:
    """Runs a handler for each fresh event of `topics`, in the order of each partition.

        shipping = Consumer(consumer="shipping")

        @shipping.on(OrderPlaced)
        def ship(conn, delivery): ...

        shipping.run()

    `on` names the handler of some types; `handler` gets every other event, and without it the others are passed over.
    A handler writes through `conn` and leaves commit and rollback alone. It is tried again for `patience_seconds`
    (keep it well below `max.poll.interval.ms`), then `run` raises `HandlerFailed`.

    `kafka` is the bootstrap servers or a librdkafka configuration, `database` a DSN or a function that connects;
    without them the environment says it, as `dovetail local env` prints it. Without `topics` they follow from the
    types; name them where the relay's configuration file gives an aggregate a topic of its own.
    """

    def __init__(
        self,
        kafka: str | Mapping[str, Any] | None = None,
        *,
        consumer: str,
        topics: Sequence[str] | None = None,
        database: str | Connect | None = None,
        handler: Handler | None = None,
        types: Iterable[Any] = (),
        schemas: Schemas | None = None,
        batch: int = 100,
        patience_seconds: float = 60.0,
    ) -> None:
        if isinstance(topics, str) or (topics is not None and not topics):
            raise ValueError("topics must be a list of topic names")
        self._confluent = _import_confluent()
        self._consumer = consumer
        self._schemas = schemas
        self._types = [EventType.of(kind) for kind in types]
        self._inbox = Inbox(consumer, types=self._types, schemas=schemas)
        self._config = None if kafka is None else _configuration(kafka, consumer)
        self._topics = None if topics is None else list(topics)
        self._database = database
        self._handler = handler
        self._handlers: dict[str, Handler] = {}
        self._batch = batch
        self._patience_seconds = patience_seconds
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None

    def on(self, *types: Any) -> Callable[[_H], _H]:
        """A decorator: this function handles the events of these types. Each type has one handler."""
        kinds = [EventType.of(kind) for kind in types]
        if not kinds:
            raise ValueError("on needs the types that are handled: @consumer.on(OrderPlaced)")

        def take(handler: _H) -> _H:
            for kind in kinds:
                if self._handlers.setdefault(kind.name, handler) is not handler:
                    raise ValueError(f"{kind.name} has a handler already")
            self._types += [kind for kind in kinds if kind not in self._types]
            self._inbox = Inbox(self._consumer, types=self._types, schemas=self._schemas)
            return handler

        return take

    def stop(self) -> None:
        """End `run` after the batch in hand. May be called from a signal handler, another thread, or before `run`."""
        self._stopping.set()

    def run(self) -> None:
        """Consume until `stop`. Raises `HandlerFailed` or `ConsumerFailed`; everything before is committed."""
        topics = self._ready()
        # Not before: a module that makes a consumer may be imported where no server is known.
        config = self._config or _configuration(environment.kafka(), self._consumer)
        spoken = {"error_cb": _Spokesman(self._confluent, config).on_error, "logger": _Quiet()}
        client = self._confluent.Consumer({**spoken, **config})
        try:
            client.subscribe(topics, on_assign=_assigned, on_revoke=_revoked, on_lost=_lost)
            while not self._stopping.is_set():
                messages = self._usable(client, client.consume(self._batch, _POLL_SECONDS))
                if messages:
                    self._handle(client, messages)
        except self._confluent.KafkaException as error:
            raise errors.ConsumerFailed(f"Kafka ended the consumer: {error}") from error
        finally:
            client.close()
            self._disconnect()

    def _ready(self) -> list[str]:
        """The topics to read. Raises where something was forgotten that can be seen before anything is connected."""
        if self._handler is None and not self._handlers:
            raise ValueError("the consumer has no handler: @consumer.on(OrderPlaced) above a function, or handler=…")
        if self._topics is None and not self._types:
            raise ValueError("topics must be named where no types are: Consumer(…, topics=['outbox.event.order'])")
        if self._database is None:
            environment.database()
        return self._topics or environment.topics(kind.aggregate for kind in self._types)

    def _usable(self, client: Any, polled: list[Any]) -> list[Any]:
        """The messages of partitions that are ours now. One taken away while polling comes to its new owner."""
        messages = []
        for message in polled:
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                self._note(error)
        ours = {(part.topic, part.partition) for part in client.assignment()} if messages else set()
        return [message for message in messages if (message.topic(), message.partition()) in ours]

    def _note(self, error: Any) -> None:
        kafka_error = self._confluent.KafkaError
        passing = {
            kafka_error._ALL_BROKERS_DOWN,
            kafka_error._MAX_POLL_EXCEEDED,
            kafka_error._PARTITION_EOF,
            kafka_error._TRANSPORT,
            kafka_error.UNKNOWN_TOPIC_OR_PART,
        }
        if error.fatal() or not (error.retriable() or error.code() in passing):
            raise errors.ConsumerFailed(f"Kafka ended the consumer: {error.str()}")
        _log.warning("kafka: %s", error.str())

    def _handle(self, client: Any, messages: list[Any]) -> None:
        """Effects first, offsets afterwards."""
        try:
            self._take(messages)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises undoes the batch
            _log.info("a batch of %d failed (%s); trying one by one", len(messages), type(error).__name__)
            self._one_by_one(client, messages)
        else:
            self._commit_offsets(client, messages)

    def _one_by_one(self, client: Any, messages: list[Any]) -> None:
        done: list[Any] = []
        try:
            for message in messages:
                if not self._persist(message):
                    break
                done.append(message)
        finally:
            self._commit_offsets(client, done)

    def _persist(self, message: Any) -> bool:
        """Try one message until it works. False where `stop` came first; raises when patience ends."""
        deadline = time.monotonic() + self._patience_seconds
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._take([message])
            except Exception as error:
                if isinstance(error, _HOPELESS) or time.monotonic() + pause_seconds > deadline:
                    where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
                    raise errors.HandlerFailed(
                        f"{where}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}; "
                        "its offset is not committed, so it comes again at the next start"
                    ) from error
                _log.warning("a message failed (%s); again in %.1f s", type(error).__name__, pause_seconds)
                if self._stopping.wait(pause_seconds):
                    return False
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                return True

    def _take(self, messages: list[Any]) -> None:
        """One transaction for these messages. No savepoint per message: many of them slow the whole server."""
        connection = self._connected()
        try:
            with connection.transaction():
                psycopg.RawCursor(connection).execute(queries["inbox_patience"], (str(self._handler_ms()),))
                for message in filter(self._is_wanted, messages):
                    with self._inbox.receive(connection, message) as delivery:
                        handler = self._handlers.get(delivery.type, self._handler)
                        if delivery.fresh and handler is not None:
                            handler(connection, delivery)
        finally:
            if connection.broken:
                self._disconnect()

    def _handler_ms(self) -> int:
        """For how long Kafka lets a consumer work between two polls; then its partitions go to another one."""
        return int((self._config or {}).get("max.poll.interval.ms", _POLL_INTERVAL_MS))

    def _is_wanted(self, message: Any) -> bool:
        """Whether somebody handles it. What is passed over leaves no receipt: nothing was done about it.

        A message without a type is wanted: the inbox says what is wrong with it.
        """
        if self._handler is not None:
            return True
        found = {value for name, value in message.headers() or () if name == header_names.TYPE and value is not None}
        return not found or any(value.decode("utf-8", "replace") in self._handlers for value in found)

    def _commit_offsets(self, client: Any, messages: list[Any]) -> None:
        if not messages:
            return
        last: dict[tuple[str, int], int] = {}
        for message in messages:
            part = (message.topic(), message.partition())
            last[part] = max(message.offset(), last.get(part, -1))
        offsets = [self._confluent.TopicPartition(topic, part, offset + 1) for (topic, part), offset in last.items()]
        try:
            client.commit(offsets=offsets, asynchronous=False)
        except self._confluent.KafkaException as error:
            # The effects are safe; the messages come again, to us or to the partition's new owner, and are known.
            _log.warning("offsets were not committed: %s", error)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = self._database() if callable(self._database) else connect(self._database)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Quiet:
    """librdkafka's own log: a line for each attempt of each broker. What it means is said by the consumer."""

    def log(self, level: int, message: str, *arguments: Any) -> None:
        _log.debug(message, *arguments, extra={"librdkafka_level": level})


class _Spokesman:
    """Says that Kafka does not answer, first at once and then rarely."""

    def __init__(self, confluent: ModuleType, config: Mapping[str, Any]) -> None:
        self._away = {confluent.KafkaError._ALL_BROKERS_DOWN, confluent.KafkaError._TRANSPORT}
        self._servers = config.get("bootstrap.servers")
        self._silent_until = 0.0

    def on_error(self, error: Any) -> None:
        """Called by the client while it polls."""
        now = time.monotonic()
        if error.code() not in self._away:
            _log.warning("kafka: %s", error.str())
        elif now >= self._silent_until:
            self._silent_until = now + _SILENCE_SECONDS
            _log.warning("Kafka at %s does not answer; waiting until it does", self._servers)


def _import_confluent() -> ModuleType:
    try:
        import confluent_kafka  # noqa: PLC0415 - an extra
    except ImportError:
        raise errors.ExtraMissing("dovetail.kafka needs confluent-kafka: pip install 'dovetail[kafka]'") from None
    module: ModuleType = confluent_kafka
    return module


def _configuration(kafka: str | Mapping[str, Any], consumer: str) -> dict[str, Any]:
    given = {"bootstrap.servers": kafka} if isinstance(kafka, str) else kafka
    for name, value in _PROMISES.items():
        if name in given and str(given[name]).lower() != str(value).lower():
            raise ValueError(f"{name} must be {str(value).lower()}: the inbox rests on it; leave it out")
    return {"group.id": consumer, **_DEFAULTS, **given, **_PROMISES}


def _assigned(_client: Any, partitions: list[Any]) -> None:
    _log.info("assigned %s", _names(partitions))


# Called from inside consume, so no batch is in hand: its effects and offsets are committed.
def _revoked(_client: Any, partitions: list[Any]) -> None:
    _log.info("revoked %s", _names(partitions))


def _lost(_client: Any, partitions: list[Any]) -> None:
    _log.warning("lost %s", _names(partitions))


def _names(partitions: list[Any]) -> str:
    return ", ".join(f"{part.topic}[{part.partition}]" for part in partitions)
