"""A world whose relays reach Kafka and PostgreSQL by way of links only; its writers and readers go past them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dovetail_local.stack import Stack
from support.kafka_proxy import KafkaProxy
from support.link import Link
from support.world import World, new_world


@dataclass(frozen=True)
class Linked:
    """See the module's words."""

    kafka: KafkaProxy
    postgres: Link
    world: World


@contextmanager
def linked_world(stack: Stack, **environ: str) -> Iterator[Linked]:
    """Fails at its end where a link went wrong by itself."""
    with KafkaProxy(stack.endpoints().bootstrap_servers) as kafka, new_world(stack, **environ) as world:
        world.environ["DOVETAIL_KAFKA__BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
        with Link(world.postgres) as postgres:
            world.environ |= world.postgres_through(postgres)
            yield Linked(kafka, postgres, world)
            assert not kafka.errors
            assert not postgres.errors
