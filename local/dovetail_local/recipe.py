"""From a wish (versions, sizes) to servers: what was chosen once is written down, the rest is worked out anew."""

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dovetail_local import kafka, postgres, readiness, software
from dovetail_local.accounts import passable_folder, server_account
from dovetail_local.endpoints import KAFKA_VARIABLE, POSTGRES_VARIABLE, Endpoints
from dovetail_local.errors import WrongUsage
from dovetail_local.identity import kill_tree, processes_inside
from dovetail_local.maven import Say
from dovetail_local.plan import Layout, Plan, Server, write_plan, write_private
from dovetail_local.ports import LOOPBACK, free_ports, is_free

_BROKER_COUNTS = (1, 3)


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

    def server_names(self) -> list[str]:
        """List the servers of this stack, the quickest to start first."""
        names = [postgres.NAME] if self.postgres_port else []
        return names + [kafka.server_name(node) for node in range(1, len(self.kafka_ports) + 1)]

    def answers(self, name: str) -> bool:
        """Tell whether a server does its work."""
        if name == postgres.NAME:
            return readiness.postgres_answers(self.postgres_port, self.passwords[postgres.SUPERUSER])
        return readiness.brokers_that_answer(self.kafka_ports[int(name.rpartition("-")[2]) - 1]) > 0

    def finish(self) -> None:
        """Give a PostgreSQL that answers its roles and its database."""
        if self.postgres_port:
            readiness.create_roles_and_database(self.postgres_port, self.passwords)

    def before_start(self, name: str) -> None:
        """Clear away what a killed server left that would keep it from starting."""
        if name == postgres.NAME:
            clear_stale_postmaster(Path(self.postgres_data))

    def endpoints(self) -> Endpoints:
        """Say where the servers are; servers that are not ours come from the environment."""
        brokers = ",".join(f"{LOOPBACK}:{port}" for port in self.kafka_ports)
        brokers = brokers or os.environ.get(KAFKA_VARIABLE, "")
        if not self.postgres_port:
            return external_endpoints(brokers)
        where = {
            f"{role}_dsn": readiness.dsn(role, self.passwords[role], self.postgres_port) for role in readiness.ROLES
        }
        superuser = readiness.dsn(postgres.SUPERUSER, self.passwords[postgres.SUPERUSER], self.postgres_port)
        return Endpoints(**where, superuser_dsn=superuser, bootstrap_servers=brokers)

    def folders_elsewhere(self) -> list[Path]:
        """List what belongs to the stack and lies outside of its folder."""
        data = Path(self.postgres_data)
        return [data.parent] if data.parent.name.startswith("dovetail-postgres-") else []


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


def make_recipe(layout: Layout, wish: Wish, say: Say) -> Recipe:
    """Choose ports, passwords and places, keeping those of an earlier start; write them down."""
    known = load_recipe(layout)
    if known is None:
        if wish.brokers not in _BROKER_COUNTS:
            raise WrongUsage(f"{wish.brokers} brokers are not possible: 1 or 3 are, try --brokers 1")
        recipe = _fresh_recipe(layout, wish)
    else:
        recipe = _with_free_ports(known, say)
    write_private(layout.record, asdict(recipe))
    return recipe


def build_plan(layout: Layout, recipe: Recipe, wish: Wish, say: Say) -> None:
    """Get the software, prepare the data directories, and write the supervisor's plan."""
    servers: list[Server] = []
    if recipe.kafka_ports:
        servers += _kafka_servers(layout, recipe, wish, say)
    if recipe.postgres_port:
        servers.append(_postgres_server(layout, recipe, wish, say))
    remove = [str(folder) for folder in [*recipe.folders_elsewhere(), layout.directory]] if wish.temporary else []
    write_plan(layout.plan, Plan(servers, remove))


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
        time.sleep(0.01)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _fresh_recipe(layout: Layout, wish: Wish) -> Recipe:
    brokers = wish.brokers if "kafka" in wish.parts else 0
    ports = free_ports(1 + 2 * brokers)
    account = server_account()
    data = layout.directory / "postgres"
    if "postgres" in wish.parts and account is not None and not account.can_pass(layout.directory):
        folder = passable_folder(account, "dovetail-postgres-")
        data.symlink_to(folder / "data")
        data = folder / "data"
    return Recipe(
        postgres_version=wish.postgres_version,
        kafka_version=wish.kafka_version,
        postgres_port=ports[0] if "postgres" in wish.parts else 0,
        kafka_ports=ports[1 : 1 + brokers],
        controller_ports=ports[1 + brokers :],
        cluster_id=kafka.new_cluster_id(),
        passwords={role: secrets.token_urlsafe(18) for role in (*readiness.ROLES, postgres.SUPERUSER)},
        postgres_data=str(data),
    )


def _with_free_ports(known: Recipe, say: Say) -> Recipe:
    """Keep the ports of the last time unless somebody else has taken one."""
    kept = asdict(known)
    wanted = [port for port in (known.postgres_port, *known.kafka_ports, *known.controller_ports) if port]
    if not all(is_free(port) for port in wanted):
        say("a port of the last time is taken now: choosing others")
        fresh = iter(free_ports(len(wanted)))
        kept["postgres_port"] = next(fresh) if known.postgres_port else 0
        kept["kafka_ports"] = [next(fresh) for _ in known.kafka_ports]
        kept["controller_ports"] = [next(fresh) for _ in known.controller_ports]
    return Recipe(**kept)


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
    account = server_account()
    data = Path(recipe.postgres_data)
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
