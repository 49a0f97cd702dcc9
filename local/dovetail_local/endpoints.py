"""Where the servers are: the one value that leaves this room."""

from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

POSTGRES_VARIABLE = "DOVETAIL_POSTGRES__DSN"
KAFKA_VARIABLE = "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Connection strings of one stack. The DSNs carry passwords: `repr` leaves them out."""

    owner_dsn: str
    relay_dsn: str
    operator_dsn: str
    app_dsn: str
    superuser_dsn: str
    bootstrap_servers: str

    def __repr__(self) -> str:
        """Say where, never the password."""
        found = urlsplit(self.relay_dsn)
        return f"Endpoints(postgres={found.hostname}:{found.port}{found.path}, kafka={self.bootstrap_servers})"

    def environment(self) -> dict[str, str]:
        """Give the environment variables under which the rest of the project finds these servers."""
        return {
            POSTGRES_VARIABLE: self.relay_dsn,
            "DOVETAIL_POSTGRES__OWNER_DSN": self.owner_dsn,
            "DOVETAIL_POSTGRES__OPERATOR_DSN": self.operator_dsn,
            "DOVETAIL_POSTGRES__APP_DSN": self.app_dsn,
            KAFKA_VARIABLE: self.bootstrap_servers,
        }

    def on_database(self, name: str) -> "Endpoints":
        """Give the same endpoints with every DSN pointing to the database `name`."""
        return replace(
            self,
            owner_dsn=_with_database(self.owner_dsn, name),
            relay_dsn=_with_database(self.relay_dsn, name),
            operator_dsn=_with_database(self.operator_dsn, name),
            app_dsn=_with_database(self.app_dsn, name),
            superuser_dsn=_with_database(self.superuser_dsn, name),
        )


def _with_database(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
