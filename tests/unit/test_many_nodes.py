"""The sidecar among several nodes: what one of them does not say keeps nothing from the others.

Nodes here are only names; what they say is made up. Real ones are in `tests/faults`.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from sidecar.errors import StoreUnavailable
from sidecar.meter.confirmations import Confirmations
from sidecar.meter.hand_in import HandIn
from sidecar.meter.lease import Lease, Place
from sidecar.meter.looks import Seen
from sidecar.meter.nodes import Node
from sidecar.meter.sight import Fence, Sight
from sidecar.metrics import MeterMetrics

ANY: Any = SimpleNamespace


def node() -> Node:
    made = Node(ANY())
    made.scripts = ANY()
    return made


def metrics() -> MeterMetrics:
    return MeterMetrics(CollectorRegistry())


def sight(**epochs: int) -> Sight:
    """Return a sight of shards by their epoch; those of epoch 2 drain."""
    fences = {int(name[1:]): Fence(epoch, True, epoch == 2, None) for name, epoch in epochs.items()}
    return Sight({}, fences)


def refreshed(lease: Lease, looker: Any, seen: Seen) -> None:
    async def look() -> Seen:
        return seen

    looker.look = look
    asyncio.run(lease.refresh())


def test_what_another_node_says_of_a_shard_outweighs_what_a_silent_one_said_before() -> None:
    a, b, looker = node(), node(), ANY(memory_ratio=0.0)
    shelf: Any = ANY(unconfirmed=Confirmations(), confirm=lambda *_: None)
    lease = Lease(looker, shelf, metrics())
    refreshed(lease, looker, Seen(3, True, {b: sight(s0=1), a: sight(s1=1, s2=1)}))
    assert lease.problem is None
    # The slot of shard 1 moved to B, where a worker fenced it; A does not answer.
    refreshed(lease, looker, Seen(3, True, {b: sight(s0=1, s1=2), a: None}))
    assert [(place.shard, place.epoch, place.node) for place in lease.to_hand_in()] == [(1, 2, b)]


def test_a_node_that_is_away_keeps_no_other_from_being_handed_in_to() -> None:
    a, b = node(), node()
    handed_in: list[int] = []

    async def hand_in(place: Place, mark: str, events: list[bytes]) -> str:
        if place.node is a:
            raise StoreUnavailable("A is away")
        handed_in.append(place.shard)
        return "1-1"

    lease: Any = ANY(handed_in=lambda *_: None)
    shelf: Any = ANY(unconfirmed=Confirmations())
    store: Any = ANY(hand_in=hand_in)
    work = HandIn(store, lease, shelf, "one", metrics())
    places = [Place(shard, 2, a if shard < 20 else b, ANY()) for shard in range(40)]
    asyncio.run(work.run(places))
    assert handed_in == list(range(20, 40))
