"""What to look at when a certificate was not accepted: the CA file, its dates, and the server's dates."""

from __future__ import annotations

import datetime as dt
import re
import socket
import ssl
import struct
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from dovetail_relay.config import Role, Settings, conninfo
from dovetail_relay.errors import ConfigInvalid

# The packet that asks a PostgreSQL server for TLS: its length and a magic number.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# The validity of an X.509 certificate: SEQUENCE { notBefore, notAfter }, each a UTCTime of 13 bytes.
_VALIDITY = re.compile(rb"\x30\x1e\x17\x0d(\d{12})Z\x17\x0d(\d{12})Z")
_TIMEOUT_SECONDS = 3.0


def tls_remedy(settings: Settings, role: Role) -> str:
    """One line: which CA file is used, how long it is valid, and how long the server's own certificate is."""
    try:
        parts = conninfo_to_dict(conninfo(settings, role))
    except ConfigInvalid:
        return "dovetail doctor"
    ca = parts.get("sslrootcert")
    known = [ca_dates(Path(str(ca))) if ca and ca != "system" else f"the CA file is {ca or '~/.postgresql/root.crt'}"]
    host, port = str(parts.get("hostaddr") or parts.get("host") or ""), str(parts.get("port") or "5432")
    if host and not host.startswith("/") and "," not in host and "," not in port:
        known.append(server_dates(host, int(port)))
    return (
        "; ".join(filter(None, known)) + "; set sslrootcert in the DSN to the CA that signed the server's certificate"
    )


def ca_dates(path: Path) -> str:
    """The CA file with the last day of its first certificate, or what is wrong with the file."""
    if not path.is_file():
        return f"the CA file {path} does not exist"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=str(path))
    except (ssl.SSLError, OSError):
        return f"the CA file {path} holds no certificate"
    certificates = context.get_ca_certs()
    until = str(certificates[0].get("notAfter", "?")) if certificates else "?"
    return f"the CA file is {path}, valid until {until}"


def server_dates(host: str, port: int) -> str:
    """From when to when the server's certificate is valid; empty when that cannot be found out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Only to read the dates of a certificate that was refused already: nothing is sent over this connection.
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return "the server offers no TLS"
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                der = encrypted.getpeercert(binary_form=True) or b""
    except (OSError, ValueError):
        return ""
    match = _VALIDITY.search(der)
    if match is None:
        return ""
    first, last = (dt.datetime.strptime(m.decode(), "%y%m%d%H%M%S").date() for m in match.groups())  # noqa: DTZ007
    return f"the server's certificate is valid from {first} to {last}"
