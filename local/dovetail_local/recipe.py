"""From a wish (versions, sizes) to servers: what was chosen once is written down, the rest is worked out anew."""

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dovetail_local import kafka, postgres, readiness, software
from dovetail_local.accounts import passable_folder, server_account
from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE, Endpoints
from dovetail_local.errors import LocalError, WrongUsage
from dovetail_local.identity import kill_tree, processes_inside
from dovetail_local.maven import Say
from dovetail_local.plan import Layout, Plan, Server, write_plan, write_private
from dovetail_local.ports import LOOPBACK, free_ports, is_free

_BROKER_COUNTS = (1, 3)
_ELSEWHERE = "dovetail-postgres-"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asks for."""

    brokers: int
    postgres_version: str
    kafka_version: str
    durable: bool
    heap: str
    temporary: bool
    parts: frozenset[str]

    def check(self) -> None:
        """Refuse what is impossible anywhere, before anything is made. Raises WrongUsage."""
        if self.brokers not in _BROKER_COUNTS:
            raise WrongUsage(f"{self.brokers} brokers are not possible: 1 or 3 are, try --brokers 1")
        software.check_versions(self.postgres_version, self.kafka_version)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a stack keeps from one start to the next. Holds the passwords."""

    postgres_version: str
    kafka_version: str
    postgres_port: int
    kafka_ports: list[int]
    controller_ports: list[int]
    cluster_id: str
    passwords: dict[str, str]
    postgres_data: str
    parts: list[str]

    @property
    def has_postgres(self) -> bool:
        """Tell whether PostgreSQL is one of the servers of this run."""
        return "postgres" in self.parts

    @property
    def has_kafka(self) -> bool:
        """Tell whether Kafka is one of the servers of this run."""
        return "kafka" in self.parts

    def answers(self, name: str) -> bool:
        """Tell whether a server does its work."""
        if name == postgres.NAME:
            return readiness.postgres_answers(self.postgres_port, self.passwords[postgres.SUPERUSER])
        node = int(name.rpartition("-")[2])
        return readiness.broker_answers(self.kafka_ports[node - 1], node)

    def finish(self) -> None:
        """Give a PostgreSQL that answers its roles and its database."""
        if self.has_postgres:
            readiness.create_roles_and_database(self.postgres_port, self.passwords)

    def before_start(self, name: str) -> None:
        """Clear away what a killed server left that would keep it from starting."""
        if name == postgres.NAME:
            clear_stale_postmaster(Path(self.postgres_data))

    def endpoints(self) -> Endpoints:
        """Say where the servers are; servers that are not ours come from the environment."""
        if self.has_kafka:
            brokers = ",".join(f"{LOOPBACK}:{port}" for port in self.kafka_ports)
        else:
            brokers = os.environ.get(KAFKA_VARIABLE, "")
        if not self.has_postgres:
            return external_endpoints(brokers)
        where = {
            f"{role}_dsn": readiness.dsn(role, self.passwords[role], self.postgres_port) for role in readiness.ROLES
        }
        superuser = readiness.dsn(postgres.SUPERUSER, self.passwords[postgres.SUPERUSER], self.postgres_port)
        return Endpoints(**where, superuser_dsn=superuser, bootstrap_servers=brokers)

    def folders_elsewhere(self) -> list[Path]:
        """List what belongs to the stack and lies outside of its folder."""
        data = Path(self.postgres_data)
        return [data.parent] if data.parent.name.startswith(_ELSEWHERE) else []

    def check(self, wish: Wish, directory: Path) -> None:
        """Refuse a wish that these data cannot fulfil. Raises WrongUsage."""
        made = {
            "brokers": (len(self.kafka_ports), wish.brokers),
            "PostgreSQL": (self.postgres_version, wish.postgres_version),
            "Kafka": (self.kafka_version, wish.kafka_version),
        }
        for what, (is_so, wished) in made.items():
            if is_so != wished:
                raise WrongUsage(
                    f"the stack in {directory} was made with {what} {is_so}, not {wished}: ask for {is_so}, "
                    "or remove it with `dovetail local down --delete`"
                )


def external_endpoints(bootstrap_servers: str) -> Endpoints:
    """Take PostgreSQL from the environment; a role without a variable of its own uses the relay's."""
    relay = os.environ.get(POSTGRES_VARIABLE, "")
    return Endpoints(
        owner_dsn=os.environ.get("DOVETAIL_POSTGRES__OWNER_DSN", relay),
        relay_dsn=relay,
        operator_dsn=os.environ.get("DOVETAIL_POSTGRES__OPERATOR_DSN", relay),
        app_dsn=os.environ.get("DOVETAIL_POSTGRES__APP_DSN", relay),
        superuser_dsn=os.environ.get("DOVETAIL_POSTGRES__SUPERUSER_DSN", relay),
        bootstrap_servers=bootstrap_servers,
    )


def load_recipe(layout: Layout) -> Recipe | None:
    """Read what an earlier start has chosen, None where there was none."""
    try:
        return Recipe(**json.loads(layout.record.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalError(f"cannot read {layout.record} ({error.strerror}): name another folder with --dir") from error
    except (ValueError, TypeError) as error:
        raise LocalError(
            f"{layout.record} is damaged or of another version: stop its servers, remove {layout.directory}, start anew"
        ) from error


def made_with(directory: Path) -> tuple[int, str, str] | None:
    """Give brokers, PostgreSQL version and Kafka version of the stack in a folder, None where there is none."""
    known = load_recipe(Layout(directory.absolute()))
    return None if known is None else (len(known.kafka_ports), known.postgres_version, known.kafka_version)


def make_recipe(layout: Layout, wish: Wish, say: Say) -> Recipe:
    """Choose ports, passwords and places, keeping those of an earlier start; write them down."""
    known = load_recipe(layout)
    if known is None:
        recipe = _fresh_recipe(layout, wish)
    else:
        known.check(wish, layout.directory)
        recipe = _with_free_ports(replace(known, parts=sorted(wish.parts)), say)
    write_private(layout.record, asdict(recipe))
    return recipe


def build_plan(layout: Layout, recipe: Recipe, wish: Wish, say: Say) -> None:
    """Get the software, prepare the data directories, and write the supervisor's plan."""
    servers: list[Server] = []
    if recipe.has_kafka:
        servers += _kafka_servers(layout, recipe, wish, say)
    if recipe.has_postgres:
        servers.append(_postgres_server(layout, recipe, wish, say))
    elsewhere = [str(folder) for folder in recipe.folders_elsewhere()]
    write_plan(layout.plan, Plan(servers, wish.temporary, elsewhere))


def clear_stale_postmaster(data: Path) -> None:
    """Remove the lock file of a postmaster that is gone.

    PostgreSQL would do it itself, unless another process has got the old process id by now. What may still write to
    the data directory is killed first: every process of PostgreSQL has it as its current folder.
    """
    if not (data / "postmaster.pid").exists():
        return
    left = processes_inside(data)
    for identity in left:
        kill_tree(identity)
    deadline = time.monotonic() + 5.0
    while any(identity.alive() for identity in left) and time.monotonic() < deadline:
        time.sleep(0.01)  # they are nobody's children here: nothing tells when they are gone
    (data / "postmaster.pid").unlink(missing_ok=True)


def _fresh_recipe(layout: Layout, wish: Wish) -> Recipe:
    ports = free_ports(1 + 2 * wish.brokers)
    data = layout.directory / "postgres"
    account = server_account(data)
    if account is not None and not account.can_pass(layout.directory):
        folder = passable_folder(account, _ELSEWHERE)
        data.unlink(missing_ok=True)
        data.symlink_to(folder / "data")
        data = folder / "data"
    return Recipe(
        postgres_version=wish.postgres_version,
        kafka_version=wish.kafka_version,
        postgres_port=ports[0],
        kafka_ports=ports[1 : 1 + wish.brokers],
        controller_ports=ports[1 + wish.brokers :],
        cluster_id=kafka.new_cluster_id(),
        passwords={role: secrets.token_urlsafe(18) for role in (*readiness.ROLES, postgres.SUPERUSER)},
        postgres_data=str(data),
        parts=sorted(wish.parts),
    )


def _with_free_ports(known: Recipe, say: Say) -> Recipe:
    """Keep the ports of the last time unless somebody else has taken one."""
    wanted = [known.postgres_port] if known.has_postgres else []
    wanted += [*known.kafka_ports, *known.controller_ports] if known.has_kafka else []
    if all(is_free(port) for port in wanted):
        return known
    say("a port of the last time is taken now: choosing others")
    count = len(known.kafka_ports)
    fresh = free_ports(1 + 2 * count)
    return replace(known, postgres_port=fresh[0], kafka_ports=fresh[1 : 1 + count], controller_ports=fresh[1 + count :])


def _kafka_servers(layout: Layout, recipe: Recipe, wish: Wish, say: Say) -> list[Server]:
    found = software.kafka_software(recipe.kafka_version, say)
    servers = []
    for node in range(1, len(recipe.kafka_ports) + 1):
        broker = kafka.Broker(
            software=found,
            node=node,
            cluster_id=recipe.cluster_id,
            ports=recipe.kafka_ports,
            controller_ports=recipe.controller_ports,
            directory=layout.directory / kafka.server_name(node),
            heap=wish.heap,
        )
        broker.prepare(layout.logs)
        servers.append(broker.server(layout.logs))
    return servers


def _postgres_server(layout: Layout, recipe: Recipe, wish: Wish, say: Say) -> Server:
    data = Path(recipe.postgres_data)
    account = server_account(data)
    cluster = postgres.Cluster(
        binaries=software.postgres_binaries(recipe.postgres_version, account, say),
        data=data,
        port=recipe.postgres_port,
        password=recipe.passwords[postgres.SUPERUSER],
        durable=wish.durable,
        account=account,
    )
    cluster.prepare()
    clear_stale_postmaster(data)
    return cluster.server(layout.logs / "postgres.log")
