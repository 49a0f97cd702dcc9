"""What may stand in `[kafka]`: the properties that would break a promise, and the names people mistype.

librdkafka knows about 180 properties and refuses unknown ones itself; `doctor` and the start of the relay ask it. What
is here must be known without it: values that librdkafka would accept although they cost order, exactly-once or privacy.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dovetail_relay.settings.secret import Secret
from dovetail_relay.settings.values import did_you_mean, is_loopback, shown, split_broker

# The relay's own values where none is given (EXACTLY_ONCE, "Settings, with reason").
SOCKET_TIMEOUT_MS = 10_000
MESSAGE_TIMEOUT_MS = 14_000
TRANSACTION_TIMEOUT_MS = 15_000
# Less, and a commit that was asked for twice could not be told by its time.
RETRY_BACKOFF_MS = 1_000

# A commit waits at most this long; a request timeout inside it would hide a second EndTxn.
COMMIT_TIMEOUT_MS = 8_000

# The broker's own upper limit (transaction.max.timeout.ms) unless its administrator raised it.
MAX_TRANSACTION_TIMEOUT_MS = 900_000

_OURS = "Dovetail sets it"
REFUSED: Mapping[str, str] = {
    "enable.idempotence": f"{_OURS} to true: without it a retry repeats or reorders events",
    "acks": f"{_OURS} to all: less loses acknowledged events when a broker dies",
    "request.required.acks": f"{_OURS} (acks=all): less loses acknowledged events when a broker dies",
    "transactional.id": "it is derived from the system id, the database and the slot; set relay.slot instead",
    "partitioner": f"{_OURS} to murmur2_random: another one moves keys to other partitions and breaks their order",
    "isolation.level": f"{_OURS} to read_committed: the checkpoint must not be read from an open transaction",
    "enable.auto.commit": "the relay keeps its position in the checkpoint, not in consumer offsets",
    "auto.commit.enable": "the relay keeps its position in the checkpoint, not in consumer offsets",
    "enable.auto.offset.store": "the relay keeps its position in the checkpoint, not in consumer offsets",
    "auto.offset.reset": "the checkpoint is read from known offsets only",
    "enable.partition.eof": f"{_OURS}",
    "group.id": "the relay is in no consumer group",
    "group.protocol": "the relay is in no consumer group",
    "group.instance.id": "the relay is in no consumer group",
    "enable.gapless.guarantee": f"{_OURS}",
    "max.in.flight": "more than five would cost the order of a key, and fewer cost speed",
    "max.in.flight.requests.per.connection": "more than five would cost the order of a key, and fewer cost speed",
    "message.send.max.retries": "retries are bounded by message.timeout.ms only",
    "retries": "retries are bounded by message.timeout.ms only",
    "queuing.strategy": "lifo would reorder events",
    "delivery.report.only.error": f"{_OURS}",
    "allow.auto.create.topics": "a misspelt topic would be created; topics are made by dovetail init",
    "log_level": "use log.level",
    "plugin.library.paths": "it loads code into the relay",
    "metadata.broker.list": "use bootstrap_servers",
    "bootstrap.servers": "use bootstrap_servers",
}

# Names that people look for, for the nearest one. Others pass: librdkafka itself refuses what it does not know.
KNOWN = (
    "bootstrap_servers", "insecure", "allowed_topics",
    "security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password", "sasl.password_file",
    "sasl.kerberos.service.name", "sasl.kerberos.principal", "sasl.kerberos.keytab", "sasl.oauthbearer.method",
    "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.secret_file",
    "sasl.oauthbearer.scope", "sasl.oauthbearer.token.endpoint.url", "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions", "sasl.oauthbearer.grant.type", "ssl.ca.location", "ssl.ca.pem", "ssl.crl.location",
    "ssl.certificate.location", "ssl.certificate.pem", "ssl.key.location", "ssl.key.pem", "ssl.key.password",
    "ssl.key.password_file", "ssl.keystore.location", "ssl.keystore.password", "ssl.keystore.password_file",
    "ssl.cipher.suites", "ssl.curves.list", "ssl.sigalgs.list", "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification", "client.id", "client.rack", "client.dns.lookup", "debug",
    "broker.address.family", "broker.address.ttl", "socket.timeout.ms", "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable", "socket.nagle.disable", "socket.send.buffer.bytes", "socket.receive.buffer.bytes",
    "connections.max.idle.ms", "reconnect.backoff.ms", "reconnect.backoff.max.ms", "retry.backoff.ms",
    "retry.backoff.max.ms", "message.timeout.ms", "delivery.timeout.ms", "transaction.timeout.ms",
    "request.timeout.ms", "message.max.bytes", "receive.message.max.bytes", "fetch.max.bytes",
    "max.partition.fetch.bytes", "fetch.wait.max.ms", "compression.type", "compression.codec", "compression.level",
    "linger.ms", "queue.buffering.max.ms", "queue.buffering.max.messages", "queue.buffering.max.kbytes", "batch.size",
    "batch.num.messages", "sticky.partitioning.linger.ms", "metadata.max.age.ms", "topic.metadata.refresh.interval.ms",
    "statistics.interval.ms", "log.connection.close", "api.version.request", "enable.metrics.push",
)  # fmt: skip

_PROPERTY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_SECRET = re.compile(r"(^|\.)(password|secret|pem|token)$|^sasl\.oauthbearer\.config$")
_PUBLIC_PEM = frozenset({"ssl.ca.pem", "ssl.certificate.pem"})

_TIMEOUT_LIMITS = {
    # property -> (default, low, high); None: the transaction timeout
    "transaction.timeout.ms": (TRANSACTION_TIMEOUT_MS, 1000, MAX_TRANSACTION_TIMEOUT_MS),
    "message.timeout.ms": (MESSAGE_TIMEOUT_MS, 1000, None),
    "delivery.timeout.ms": (MESSAGE_TIMEOUT_MS, 1000, None),
    "socket.timeout.ms": (SOCKET_TIMEOUT_MS, COMMIT_TIMEOUT_MS + 1, None),
    "retry.backoff.ms": (RETRY_BACKOFF_MS, RETRY_BACKOFF_MS, 60_000),
    "retry.backoff.max.ms": (RETRY_BACKOFF_MS, RETRY_BACKOFF_MS, 60_000),
}

# What the library would refuse without the value, or without what is allowed, when the first client is made.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "security.protocol": ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"),
    "sasl.mechanisms": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"),
    "compression.type": ("none", "gzip", "snappy", "lz4", "zstd"),
    "compression.codec": ("none", "gzip", "snappy", "lz4", "zstd"),
}
# It compares these letter by letter.
_EXACT = frozenset({"sasl.mechanism", "sasl.mechanisms"})
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "message.max.bytes": (1000, 1_000_000_000),
    "receive.message.max.bytes": (1000, 2_147_483_647),
    "fetch.max.bytes": (0, 2_147_483_135),
    "max.partition.fetch.bytes": (1, 1_000_000_000),
    "queue.buffering.max.messages": (0, 2_147_483_647),
    "queue.buffering.max.kbytes": (1, 2_147_483_647),
    "batch.num.messages": (1, 1_000_000),
    "batch.size": (1, 2_147_483_647),
}
# Files that the library opens itself; of a missing one it says that x509 has failed.
FILES = (
    "ssl.ca.location", "ssl.crl.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location",
)  # fmt: skip

# Two names of one property: where one is given, the other has no default.
_ALIASES = {"message.timeout.ms": "delivery.timeout.ms", "delivery.timeout.ms": "message.timeout.ms"}


def is_secret(name: str) -> bool:
    """Whether a property's value must not be shown."""
    return name not in _PUBLIC_PEM and _SECRET.search(name) is not None


def name_problem(name: str) -> str | None:
    """Why a property is refused by its name alone."""
    if name in REFUSED:
        return f"cannot be set: {REFUSED[name]}"
    if name in KNOWN:
        return None
    near = did_you_mean(name, KNOWN)
    if not _PROPERTY.fullmatch(name):
        return f"{shown(name)} is not a librdkafka property{near}"
    if near and _is_typo(name, near):
        return f"unknown property{near}"
    return None


def _is_typo(name: str, near: str) -> bool:
    """A known name with a slip in it. Properties with another set of words are left to librdkafka's own list."""
    known = near.split("'")[1]
    words, known_words = re.split(r"[._]", name), re.split(r"[._]", known)
    if words == known_words:
        return True
    different = [(a, b) for a, b in zip(words, known_words, strict=False) if a != b]
    return (
        len(words) == len(known_words) and len(different) == 1 and bool(did_you_mean(different[0][0], different[0][1:]))
    )


def property_problems(
    properties: Mapping[str, str | Secret], bootstrap: str, *, insecure: bool
) -> list[tuple[str, str]]:
    """(property, what is wrong) for values that break a promise or open the wire."""
    found = [*_value_problems(properties), *_timeout_problems(properties)]
    if insecure:
        return found
    protocol = str(properties.get("security.protocol", "plaintext")).lower()
    remote = [host for host, _ in map(split_broker, filter(None, bootstrap.split(","))) if not is_loopback(host)]
    if remote and protocol in {"plaintext", "sasl_plaintext"}:
        said = "is not set, which means plaintext" if "security.protocol" not in properties else f"is {shown(protocol)}"
        allowed = "SSL or SASL_SSL, or kafka.insecure = true to send events in clear"
        found.append(("security.protocol", f"{said}, and {remote[0]} is not on this machine; allowed: {allowed}"))
    if str(properties.get("enable.ssl.certificate.verification", "true")).lower() in {"false", "0"}:
        found.append(
            ("enable.ssl.certificate.verification", "false accepts any server; only with kafka.insecure = true")
        )
    if str(properties.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        found.append(
            ("ssl.endpoint.identification.algorithm", "none accepts any host name; only with kafka.insecure = true"),
        )
    return found


def _value_problems(properties: Mapping[str, str | Secret]) -> Iterator[tuple[str, str]]:
    for name, allowed in _CHOICES.items():
        given = str(properties.get(name, allowed[0])).strip()
        if (given if name in _EXACT else given.lower()) not in allowed:
            near = did_you_mean(given.upper() if name in _EXACT else given.lower(), allowed)
            yield name, f"{shown(given)} is none of {', '.join(allowed)}{near}"
    for name, (low, high) in _NUMBERS.items():
        given = str(properties.get(name, low)).strip()
        if not re.fullmatch(r"\d{1,10}", given) or not low <= int(given) <= high:
            yield name, f"{shown(given)} is not a whole number from {low} to {high}, without a unit"


def _timeout_problems(properties: Mapping[str, str | Secret]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    transaction = TRANSACTION_TIMEOUT_MS
    for name, (default, low, high) in _TIMEOUT_LIMITS.items():
        if name not in properties and _ALIASES.get(name) in properties:
            continue
        given = str(properties.get(name, default)).strip()
        if not re.fullmatch(r"\d{1,9}", given):
            found.append((name, f"{shown(given)} is not a number of milliseconds"))
            continue
        number = int(given)
        if name == "transaction.timeout.ms":
            transaction = number
        if number < low:
            found.append((name, f"{number} is below {low}"))
        elif high is not None and number > high:
            found.append((name, f"{number} is above {high}, the most that is accepted"))
        elif high is None and number > transaction:
            said = "" if name in properties else " (the default)"
            found.append((name, f"{number}{said} is above transaction.timeout.ms, which is {transaction}"))
    return found
