"""What befalls a world: to processes, locks, servers and the network between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from simulation.database import START
from simulation.session import Killed

from dovetail_relay.errors import KafkaUnavailable, PartitionsChanged
from dovetail_relay.nouns import Lsn

if TYPE_CHECKING:
    from simulation.relay import Relay
    from simulation.world import World

Misfortune = Callable[["World"], None]


def leader(world: World) -> Relay:
    first, second = world.relays
    return second if second.leads else first


def crash(world: World) -> None:
    leader(world).kill()


def stop(world: World) -> None:
    """SIGTERM, as in each deployment."""
    relay = leader(world)
    relay.stopping = relay.leads


def freeze(world: World) -> None:
    """Frozen, evicted, and awake again while the successor is at work; its stream may live on for a while."""
    relay = leader(world)
    relay.wakes_at = world.now + 3 + int(world.chance() * 25)
    if relay.leads:
        world.database.leader = None
        if world.chance() < 0.5:
            world.database.end_stream()
    world.seen["relay frozen and evicted"] += 1


def lose_lock(world: World) -> None:
    world.database.leader = None
    world.seen["lock session lost"] += 1


def database_crash(world: World) -> None:
    world.seen["slot rewound by a crash"] += world.database.crash()


def stream_ends(world: World) -> None:
    world.database.end_stream()


def promote(world: World) -> None:
    if world.chance() < 0.2:
        fail_over(world)


def fail_over(world: World) -> None:
    """A standby is promoted that may or may not have what was published."""
    database, end = world.database, world.broker.durable_end
    switch = database.insert_lsn
    if world.chance() < 0.5:  # noqa: SIM108 - one line would be too long
        switch = Lsn(max(START, switch - int(world.chance() * 12)))
    else:
        switch = max(end, START)
    if switch > database.insert_lsn or switch < database.rebased_lsn:
        return
    world.switch = switch
    database.promote(switch)
    world.poison.anew()
    world.seen["promotion"] += 1


def outage(world: World) -> None:
    world.broker.weather.down = True
    world.bad_weather(1 + int(world.chance() * 12))
    world.seen["Kafka away"] += 1


def bad_commits(world: World) -> None:
    world.broker.weather.commit = 0.7
    world.bad_weather(1 + int(world.chance() * 25))


def bad_deliveries(world: World) -> None:
    world.broker.weather.delivery = 0.3
    world.bad_weather(1 + int(world.chance() * 15))


def slow_coordinator(world: World) -> None:
    world.broker.weather.init = world.broker.weather.read = 0.4
    world.bad_weather(1 + int(world.chance() * 20))


def late_end(world: World) -> None:
    late = world.broker.late
    if late:
        world.broker.deliver_late(int(world.chance() * len(late)))


def late_init(world: World) -> None:
    """Or a transaction that outlived its time: the same to everybody."""
    world.broker.fence()
    world.seen["epoch moved under the leader"] += 1


def late_add_partition(world: World) -> None:
    world.broker.add_partition(int(world.chance() * 2))
    world.seen["late AddPartitionsToTxn"] += 1


def late_produce(world: World) -> None:
    world.broker.late_produce()
    world.seen["late Produce"] += 1


def ghost_steps(world: World) -> None:
    """The side thread of a reign that is over goes on a little."""
    ghosts = world.ghosts
    if ghosts:
        at = int(world.chance() * len(ghosts))
        ghost = ghosts[at]
        try:
            next(ghost.job)
        except (StopIteration, KafkaUnavailable, PartitionsChanged):
            del ghosts[at]
        except Killed as killed:
            del ghosts[at]
            if ghost.writer == ghost.relay.writer:
                ghost.relay.kill(killed)


def advance_slot(world: World) -> None:
    """Somebody advances the slot by hand, which the server allows while nobody streams."""
    if world.chance() < 0.1 and world.database.walsender is None:
        world.advanced = True
        world.database.confirm(world.database.insert_lsn)


def delete_checkpoint(world: World) -> None:
    # Before the marker is set it is the first start once more, and nobody could know.
    if world.chance() < 0.05 and world.database.row.started:
        world.deleted = True
        world.broker.forget()


def drop_slot(world: World) -> None:
    if world.commands and world.chance() < 0.2:
        world.lose_slot()


def lose_all(world: World) -> None:
    """The slot, or the checkpoint with it."""
    if world.commands:
        world.lose_slot()
        if world.chance() < 0.5 and world.database.row.started:
            world.deleted = True
            world.broker.forget()


MILD: Final = (late_end, late_end, late_end, bad_deliveries)
MISFORTUNES: Final = (
    crash,
    crash,
    crash,
    stop,
    freeze,
    freeze,
    lose_lock,
    database_crash,
    stream_ends,
    promote,
    outage,
    bad_commits,
    bad_commits,
    bad_deliveries,
    slow_coordinator,
    late_end,
    late_end,
    late_end,
    late_init,
    late_add_partition,
    late_produce,
    ghost_steps,
    ghost_steps,
    advance_slot,
    delete_checkpoint,
    drop_slot,
)
# Worlds in which one kind of trouble comes again and again: what needs two or three of it is found there.
FAILOVERS: Final = (fail_over, fail_over, crash, crash, database_crash, lose_lock, bad_commits, outage)
ZOMBIES: Final = (
    freeze,
    freeze,
    freeze,
    lose_lock,
    lose_lock,
    bad_commits,
    bad_deliveries,
    outage,
    ghost_steps,
    late_end,
    late_init,
    late_add_partition,
)
LOSSES: Final = (lose_all, crash, crash, freeze, bad_deliveries, bad_commits, database_crash, advance_slot)

_KINDS: Final = ((0.1, FAILOVERS), (0.2, ZOMBIES), (0.3, LOSSES))


def kind_of(roll: float) -> tuple[Misfortune, ...]:
    """What a world's trouble is made of."""
    return next((kind for below, kind in _KINDS if roll < below), MISFORTUNES)
