"""Looking at Redis: who has what, whether workers know this sidecar, and what each node says.

A look is also the sign of life by which workers know that this sidecar is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import msgspec
from redis.exceptions import ReadOnlyError

from sidecar.durable import LEASE_SECONDS, require_durable
from sidecar.errors import SettingsError, StoreUnavailable
from sidecar.meter.nodes import Node, Nodes
from sidecar.meter.sight import Home, Sight, look, look_home
from sidecar.meter.wire import FAULTS

log: Final = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """This sidecar as workers know it: `boot` is new with each process, `id` with each journal."""

    id: str
    name: str
    boot: str

    @classmethod
    def of(cls, sidecar_id: str, name: str) -> Identity:
        """Return the identity of a process that begins now."""
        return cls(sidecar_id, name, uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Seen:
    """What there was to see. A node that did not answer has no sight."""

    shards: int
    is_registered: bool
    sights: Mapping[Node, Sight | None]


class Looker:
    """Looks at all nodes. One look at a time."""

    def __init__(
        self, nodes: Nodes, identity: Identity, *, timeout_ms: int, is_unsafe_allowed: bool
    ) -> None:
        self._nodes = nodes
        self._identity = identity
        # However long a decision may wait: a look that takes as long as a lease is of no use.
        self._look_seconds = min(max(_LOOK_SECONDS, timeout_ms / 1000), LEASE_SECONDS / 2.5)
        self._is_unsafe_allowed = is_unsafe_allowed
        self.is_leaving = False

    @property
    def memory_ratio(self) -> float:
        """How full the fullest node is."""
        return self._nodes.memory_ratio

    async def look(self) -> Seen:
        """Give a sign of life, and look at every node, its scripts loaded where it decides.

        Raises `StoreUnavailable` when the home node does not answer, or none does, and
        `SettingsError` when one may forget what it is told.
        """
        await self._nodes.locate(_LOOK_SECONDS)
        home = self._nodes.home
        said = await self._look_home(home)
        shards = self._shards_of_nodes(home, said.shards)
        looks = (self._look_at(node, mine) for node, mine in shards.items())
        sights: dict[Node, Sight | None] = {}
        found = await asyncio.gather(*looks, return_exceptions=True)
        for node, sight in zip(shards, found, strict=True):
            if isinstance(sight, BaseException):
                raise sight
            sights[node] = sight
        if not any(sights.values()):
            raise StoreUnavailable(home.problem or "no node of Redis answers")
        return Seen(said.shards, said.is_registered, sights)

    async def _look_home(self, home: Node) -> Home:
        try:
            async with asyncio.timeout(self._look_seconds):
                return await look_home(
                    home.wire, self._identity.id, self._identity.boot, self._beat()
                )
        except FAULTS as error:
            await _lose(home, error)
            raise StoreUnavailable(_about(error)) from error

    def _shards_of_nodes(self, home: Node, count: int) -> dict[Node, list[int]]:
        found: dict[Node, list[int]] = {home: []}
        for shard in range(count):
            node = self._nodes.of(shard)
            if node is not None:
                found.setdefault(node, []).append(shard)
        return found

    async def _look_at(self, node: Node, shards: Sequence[int]) -> Sight | None:
        try:
            async with asyncio.timeout(self._look_seconds):
                sight = await look(node.wire, shards)
                if not self._is_unsafe_allowed:
                    require_durable(sight.info)
                if any(fence.is_ours for fence in sight.fences.values()):
                    await node.know(sight.info["run_id"])
        except SettingsError:
            node.until = 0.0
            raise
        except FAULTS as error:
            await _lose(node, error)
            return None
        node.problem = None
        node.memory_ratio = sight.memory_ratio
        return sight

    def _beat(self) -> bytes:
        return msgspec.json.encode(
            {
                "name": self._identity.name,
                "boot": self._identity.boot,
                "at_ms": int(time.time() * 1000),
                "state": "leaving" if self.is_leaving else "running",
                "version": version("credit-sidecar"),
            }
        )


async def _lose(node: Node, error: Exception) -> None:
    if isinstance(error, ReadOnlyError):
        node.until = 0.0
    if node.problem is None:
        log.warning("a node of Redis does not answer", extra={"error": _about(error)})
    node.problem = _about(error)
    node.memory_ratio = 0.0  # nobody knows
    await node.close()


def _about(error: Exception) -> str:
    return f"Redis: {str(error) or type(error).__name__}"
