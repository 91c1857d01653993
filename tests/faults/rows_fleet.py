"""Faults of several Redis servers: fail-over by sentinels and in a cluster, and slots that move."""

from __future__ import annotations

from typing import Final

from sidecar import keys
from sidecar.deployment import slot_of
from tests.faults.cycle import Cycle
from tests.faults.fleet import Cluster, NotThere, Watched
from tests.faults.redis_node import RedisNode
from tests.faults.stack import FleetStack

_MOST_SLOTS: Final = 8


def sentinel_failover(cycle: Cycle) -> None:
    """The master dies, maybe a sentinel hangs, the replica is promoted, the old one comes back."""
    fleet = _fleet(cycle)
    assert isinstance(fleet, Watched)
    old = fleet.master()
    if cycle.chance.random() < 0.5:
        fleet.pause_sentinel(cycle.chance.randrange(3))
    old.kill()
    cycle.wait_until(lambda: _is_other(fleet, old), "a new master")
    cycle.mark()
    cycle.go_on(0.5, 2.0)
    fleet.resume_sentinels()
    _come_back(cycle, old)


def _is_other(fleet: Watched, old: RedisNode) -> bool:
    try:
        return fleet.master() is not old
    except NotThere:
        return False


def cluster_failover(cycle: Cycle) -> None:
    """A master of the cluster dies, its replica takes its place, and the old one comes back."""
    fleet = _fleet(cycle)
    assert isinstance(fleet, Cluster)
    old = cycle.chance.choice(fleet.masters())
    old.kill()
    cycle.wait_until(lambda: old not in fleet.masters(), "a new master")
    cycle.mark()
    _come_back(cycle, old)


def resharding(cycle: Cycle) -> None:
    """Slots move to other masters: those of some accounts, and maybe that of no shard."""
    fleet = _fleet(cycle)
    assert isinstance(fleet, Cluster)
    count = cycle.stack.shape.shards
    shards = sorted({keys.shard_of(account.name, count) for account in cycle.accounts})
    some = cycle.chance.sample(shards, cycle.chance.randint(1, min(len(shards), _MOST_SLOTS)))
    for slot in cycle.chance.sample([*map(slot_of, some), slot_of(None)], len(some)):
        others = [node for node in fleet.masters() if node is not fleet.owner(slot)]
        moved = fleet.move(slot, cycle.chance.choice(others))
        cycle.notes["keys moved"] = cycle.notes.get("keys moved", 0.0) + moved
    cycle.mark()


def _come_back(cycle: Cycle, old: RedisNode) -> None:
    """Let a master that was replaced come back; at first it takes itself for one still."""
    cycle.go_on(0.5, 2.0)
    old.start()
    cycle.wait_until(_fleet(cycle).is_whole, "the old master's place as a replica", 60.0)


def _fleet(cycle: Cycle) -> Cluster | Watched:
    assert isinstance(cycle.stack, FleetStack)
    return cycle.stack.fleet
