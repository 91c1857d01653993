"""The Redis nodes as the hot path uses them: which one has which shard, and what was seen of it.

On a single Redis there is one node. Of several, who has what is asked before each look: of the
sentinels, or of the cluster. A call that a node refuses because a slot moved or is just moving has
not run, and is answered 503; the shard is decided again when a worker has fenced it on its new
node. To follow a redirection would be of no use: the scripts are bound to one process.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidecar.deployment import (
    ONLY,
    SCOUT_SECONDS,
    Address,
    Deployment,
    Kind,
    SlotMap,
    master_of,
    slot_of,
)
from sidecar.errors import StoreUnavailable
from sidecar.meter.wire import FAULTS, Wire
from sidecar.scripts import Scripts, load_scripts


class Node:
    """One Redis server: a pool for decisions, one wire for looks, and what was seen by it.

    `until`: the monotonic instant up to which that is believed. `scripts`: those of the process
    that was seen last.
    """

    def __init__(self, client: Redis) -> None:
        self.client: Final = client
        self.scripts: Scripts | None = None
        self.until = 0.0
        self.memory_ratio = 0.0
        self.problem: str | None = None
        self._wire: Wire | None = None
        self._run_id = ""
        self._is_loaded = False

    @property
    def wire(self) -> Wire:
        """The connection for looks; a new one after `close`."""
        if self._wire is None:
            self._wire = Wire(self.client)
        return self._wire

    async def know(self, run_id: str) -> None:
        """Load the scripts into the process, unless it is known to have them. Raises `FAULTS`."""
        if self._is_loaded and run_id == self._run_id:
            return
        scripts = load_scripts(run_id)
        loads = [("SCRIPT", "LOAD", script.text) for script in scripts.all()]
        for reply in await self.wire.ask(loads):
            if isinstance(reply, Exception):
                raise reply
        self.scripts, self._run_id, self._is_loaded = scripts, run_id, True

    def give_up(self) -> None:
        """Believe nothing of what was seen."""
        self.until = 0.0
        self._is_loaded = False

    async def close(self) -> None:
        """Close the wire; the next look opens another."""
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.close()


class Nodes:
    """All nodes of a deployment, each made when it is first heard of."""

    def __init__(self, deployment: Deployment, *, timeout_ms: int, connections: int) -> None:
        self._deployment = deployment
        self._timeout_ms = timeout_ms
        self._connections = connections
        self._nodes: dict[Address, Node] = {}
        is_single = deployment.kind is Kind.SINGLE
        self._map = SlotMap.everywhere(ONLY) if is_single else SlotMap()
        self._sentinels: list[Redis] = []
        self._turn = 0

    @property
    def home(self) -> Node:
        """The node that has what belongs to no shard. Raises `StoreUnavailable`."""
        node = self._at(slot_of(None))
        if node is None:
            raise StoreUnavailable(f"no node of the {self._deployment.kind} is known yet")
        return node

    def of(self, shard: int) -> Node | None:
        """Return the node that has a shard, if one is known to."""
        return self._at(slot_of(shard))

    @property
    def memory_ratio(self) -> float:
        """How full the fullest node is."""
        owners = (self._nodes.get(address) for address in self._map.owners)
        return max((node.memory_ratio for node in owners if node is not None), default=0.0)

    async def locate(self, timeout_s: float) -> None:
        """Ask who has what; call it alone. When nobody says it, what was known goes on."""
        if self._deployment.kind is Kind.SINGLE:
            return
        is_cluster = self._deployment.kind is Kind.CLUSTER
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                found = await (self._ask_cluster() if is_cluster else self._ask_sentinels())
                self._map = found or self._map

    async def close(self) -> None:
        """Close all connections."""
        await self.close_wires()
        for node in self._nodes.values():
            await node.client.aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def close_wires(self) -> None:
        """Close the connections for looks; they are opened again when they are needed."""
        for node in self._nodes.values():
            await node.close()

    def _at(self, slot: int) -> Node | None:
        owner = self._map.owner(slot)
        return None if owner is None else self._node(owner)

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            url = self._deployment.node_url(address)
            node = self._nodes[address] = Node(_connect(url, self._timeout_ms, self._connections))
        return node

    async def _ask_sentinels(self) -> SlotMap | None:
        async def ask(sentinel: Redis) -> Any:
            try:
                async with asyncio.timeout(SCOUT_SECONDS):
                    return await cast(Any, sentinel).sentinel_master(self._deployment.service)
            except FAULTS:
                return {}

        if not self._sentinels:
            options = self._deployment.sentinel_options() | {"retry": Retry(NoBackoff(), 0)}
            seeds = self._deployment.seeds
            self._sentinels = [Redis(host=host, port=port, **options) for host, port in seeds]
        master = master_of(await asyncio.gather(*map(ask, self._sentinels)))
        return None if master is None else SlotMap.everywhere(master)

    async def _ask_cluster(self) -> SlotMap | None:
        # Another one first each time: one that is cut off tells what was true once.
        known = list(dict.fromkeys([*self._map.owners, *self._deployment.seeds]))
        self._turn += 1
        first = self._turn % len(known)
        for address in known[first:] + known[:first]:
            node = self._node(address)
            try:
                async with asyncio.timeout(SCOUT_SECONDS):
                    (answer,) = await node.wire.ask([("CLUSTER", "SLOTS")])
            except FAULTS:
                await node.close()
                continue
            if answer and not isinstance(answer, Exception):
                return SlotMap.of_cluster(answer, address)
        return None


def _connect(url: str, timeout_ms: int, connections: int) -> Redis:
    """Return a client whose calls are never repeated: a repeat would run a script twice.

    A new connection says nothing before its first call. (RESP3 and the driver's name would cost
    four commands; 64 connections opened by a burst would then not be there in time.)
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_ms / 1000,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        protocol=2,
        driver_info=None,
    )
    return Redis(connection_pool=pool)
