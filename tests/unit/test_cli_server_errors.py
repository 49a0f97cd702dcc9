"""What a server's refusal is turned into: a name, the setting at fault, what to type, never a password."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dovetail_relay.config import Settings, load
from dovetail_relay.errors import ServerUnreachable
from dovetail_relay.setup import tls
from dovetail_relay.setup.connect import named
from dovetail_relay.setup.problems import LoginRefused, PermissionMissing, PoolerBetween, TlsFailed

AT = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


def settings(dsn: str = "host=localhost dbname=x password=hunter2") -> Settings:
    return load(None, {"DOVETAIL_POSTGRES__DSN": dsn}, needs=())


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (AT + "Connection refused", ServerUnreachable, "postgres.dsn"),
        ("could not translate host name", ServerUnreachable, "host name"),
        (AT + "timeout expired", ServerUnreachable, "timeout"),
        (AT + "FATAL:  the database system is starting up", ServerUnreachable, "starting up"),
        (AT + "FATAL:  sorry, too many clients already", ServerUnreachable, "no connection left"),
        (AT + 'FATAL:  password authentication failed for user "relay"', LoginRefused, '"relay"'),
        (AT + 'FATAL:  no pg_hba.conf entry for host "10.0.0.2"', LoginRefused, "pg_hba"),
        (AT + 'FATAL:  database "shop" does not exist', LoginRefused, '"shop"'),
        (AT + 'FATAL:  role "relay" does not exist', LoginRefused, '"relay"'),
        (AT + "ERROR:  unsupported startup parameter: replication", PoolerBetween, "direct connection"),
        (AT + "FATAL:  permission denied to start WAL sender", PermissionMissing, "may not replicate"),
        (AT + "SSL error: certificate verify failed", TlsFailed, "certificate verify failed"),
        (AT + "server does not support SSL, but SSL was required", TlsFailed, "does not support SSL"),
        (AT + 'server certificate for "a" does not match host name "b"', TlsFailed, '"b"'),
        (AT + "FATAL: something nobody thought of with password=hunter2", ServerUnreachable, "password=***"),
    ],
)
def test_a_refused_connection_gets_a_name(text: str, kind: type[Exception], said: str) -> None:
    error = named(psycopg.OperationalError(text), settings(), "relay")
    assert type(error) is kind
    assert said in str(error)
    assert "hunter2" not in str(error)


def certificate(tmp_path: Path, days: int) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "db.example")])
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A listener that agrees to TLS as PostgreSQL does, once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path, 31))

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            assert len(connection.recv(8)) == 8
            connection.sendall(b"S")
            with context.wrap_socket(connection, server_side=True) as encrypted:
                encrypted.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_a_certificate_that_was_not_accepted_is_told_with_its_dates_and_the_ca_file(
    tls_port: int, tmp_path: Path
) -> None:
    dsn = f"host=127.0.0.1 port={tls_port} dbname=x sslmode=verify-full sslrootcert={tmp_path / 'server.pem'}"
    remedy = tls.tls_remedy(settings(dsn), "relay")
    assert f"the CA file is {tmp_path / 'server.pem'}, valid until Feb  1 00:00:00 2024 GMT" in remedy
    assert "the server's certificate is valid from 2024-01-01 to 2024-02-01" in remedy


def test_a_ca_file_that_is_missing_or_holds_nothing_is_told(tmp_path: Path) -> None:
    assert "does not exist" in tls.ca_dates(tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("hello")
    assert "holds no certificate" in tls.ca_dates(tmp_path / "text.pem")


def test_a_server_that_cannot_be_asked_leaves_the_dates_out() -> None:
    assert tls.server_dates("127.0.0.1", 1) == ""
