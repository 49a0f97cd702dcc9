"""From a configured DSN to the conninfo that libpq gets: defaults added, TLS demanded, passwords kept out of sight.

What the user's DSN says wins, except that a remote server without verified TLS is refused unless `insecure` is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import ProgrammingError

from dovetail_relay.settings.secret import HIDDEN, Secret
from dovetail_relay.settings.values import is_loopback, shown

# A dead network is seen after 5 + 3 * 2 = 11 s at the latest: about the lease, after which another relay takes over.
_KEEPALIVE = {"keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3"}
_TCP_USER_TIMEOUT_MS = "11000"

_VERIFIED = frozenset({"verify-full", "verify-ca"})
_HIDDEN_KEYS = frozenset({"password", "sslpassword", "oauth_client_secret"})
_PASSWORD_TEXT = re.compile(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)
_PASSWORD_URL = re.compile(r"(\w+://[^\s:/@]*:)[^\s@]*@")


class BadDsn(ValueError):
    """A DSN that cannot be used; the message never contains it."""


def parse(dsn: Secret) -> dict[str, str]:
    """libpq's parameters. Its own error text may quote a password, so it is not passed on."""
    try:
        parts = {key: str(value) for key, value in conninfo_to_dict(dsn.reveal()).items() if value is not None}
    except (ProgrammingError, UnicodeError):
        raise BadDsn(
            "is not a connection string such as 'host=db dbname=shop user=dovetail_relay' or postgresql://…",
        ) from None
    for port in filter(None, parts.get("port", "").split(",")):
        # libpq asks the resolver for it, and that looks like a server that is not there.
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
            raise BadDsn(f"has the port {shown(port)}; a port is a number from 1 to 65535")
    return parts


def is_local(parts: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether every host is a unix socket or this machine. A service file may name any host, so it is not local."""
    if parts.get("service") or environ.get("PGSERVICE"):
        return False
    hosts = parts.get("hostaddr") or parts.get("host") or environ.get("PGHOSTADDR") or environ.get("PGHOST") or ""
    return all(not host or host.startswith(("/", "@")) or is_loopback(host) for host in hosts.split(","))


def tls_problem(parts: Mapping[str, str], environ: Mapping[str, str], *, insecure: bool) -> str | None:
    """Why this connection would be open to a listener or an impostor."""
    mode = parts.get("sslmode")
    if insecure or mode is None or mode in _VERIFIED or is_local(parts, environ):
        return None
    if mode == "require" and parts.get("sslrootcert"):
        return None  # libpq then verifies the certificate's authority, as verify-ca does
    return f"sslmode={mode} does not verify the server; allowed: verify-full, verify-ca, or postgres.insecure = true"


def complete(
    parts: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    application_name: str,
    connect_timeout_seconds: int,
    insecure: bool,
    password: Secret | None,
) -> str:
    """The conninfo to connect with."""
    hosts = (parts.get("hostaddr") or parts.get("host") or "").count(",") + 1
    final = {
        "application_name": application_name,
        # libpq gives each host so long, and 2 s at least: all of them together must not cost the lead.
        "connect_timeout": str(max(2, connect_timeout_seconds // hosts)),
        # Whatever PGCLIENTENCODING says: every text we read is UTF-8.
        "client_encoding": "utf8",
        "sslmode": "prefer" if insecure or is_local(parts, environ) else "verify-full",
        "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
        **_KEEPALIVE,
        **parts,
    }
    if hosts > 1:
        # Of several hosts only the primary has the slot and takes the lock.
        final.setdefault("target_session_attrs", "read-write")
    if password is not None:
        final["password"] = password.reveal()
    return make_conninfo("", **final)


def redacted(conninfo: str) -> str:
    """A conninfo as it may be shown: `password=***`."""
    try:
        parts = conninfo_to_dict(conninfo)
    except (ProgrammingError, UnicodeError):
        return HIDDEN
    return make_conninfo("", **{key: HIDDEN if key in _HIDDEN_KEYS else value for key, value in parts.items()})


def scrubbed(message: str, *secrets: Secret | None) -> str:
    """A server's or driver's message without passwords, in one line."""
    for secret in secrets:
        if secret is not None and len(secret.reveal()) > 3:
            message = message.replace(secret.reveal(), HIDDEN)
    message = _PASSWORD_URL.sub(rf"\1{HIDDEN}@", _PASSWORD_TEXT.sub(rf"\1{HIDDEN}", message))
    return " ".join(message.split())


def read_dsn_file(path: Path, text: Secret) -> dict[str, str]:
    """The DSN that stands in a file; the message names the file."""
    try:
        return parse(text)
    except BadDsn as error:
        raise BadDsn(f"{path} {error}") from None
