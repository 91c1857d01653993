"""What this sidecar may decide now: for which shards, in which epoch, by which Redis process.

Whatever was seen of a node is believed for `LEASE_SECONDS` from before it was asked. An answer goes
out only while the lease runs and the shard is in the epoch in which the call ran: a sidecar that
was asleep, cut off or overtaken by a loss never acknowledges what nobody will ask it for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar import keys
from sidecar.durable import LEASE_SECONDS
from sidecar.errors import SettingsError, StoreUnavailable
from sidecar.meter.looks import Looker
from sidecar.meter.nodes import Node
from sidecar.meter.shelf import Shelf
from sidecar.meter.sight import Fence, Sight
from sidecar.metrics import MeterMetrics
from sidecar.scripts import Scripts

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call runs: shard and epoch, the node, and the scripts of the process that it was."""

    shard: int
    epoch: int
    node: Node
    scripts: Scripts


class Lease:
    """Looks at Redis, and says what may be decided by what it saw."""

    def __init__(
        self,
        looker: Looker,
        shelf: Shelf,
        metrics: MeterMetrics,
    ) -> None:
        self._looker = looker
        self._shelf = shelf
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._looked_at = 0.0
        self._is_believed = False
        self._shards = 0
        self._fences: dict[int, tuple[Fence, Node]] = {}
        self._newest: dict[int, int] = {}
        self._handed_in: dict[int, int] = {}
        self._ready: dict[int, Place] = {}
        self._problem: str | None = "Redis has not been asked yet"
        self._is_registered = False
        self.suspected: Final = asyncio.Event()
        metrics.lease_age.set_function(lambda: time.monotonic() - self._looked_at)

    # What may be decided ---------------------------------------------------------------------

    def place(self, account: str) -> Place:
        """Return where an account is decided. Raises `StoreUnavailable` when it is nowhere."""
        if not self._shards:
            raise StoreUnavailable(self._problem or "no worker has opened the shards yet")
        shard = keys.shard_of(account, self._shards)
        place = self._ready.get(shard)
        if place is None:
            raise StoreUnavailable(self._problem or f"shard {shard} is not open")
        if time.monotonic() >= place.node.until:
            raise StoreUnavailable(self._problem or "what was seen of Redis is too old")
        return place

    def require(self, place: Place) -> None:
        """Raise `StoreUnavailable` unless what ran at a place may be acknowledged."""
        now = self._ready.get(place.shard)
        is_same = (
            now is not None
            and now.epoch == place.epoch
            and now.node is place.node
            and now.scripts is place.scripts
        )
        if not is_same or time.monotonic() >= place.node.until:
            raise StoreUnavailable(f"shard {place.shard} may be lost since")

    @property
    def problem(self) -> str | None:
        """What keeps this sidecar from deciding for all accounts, or None."""
        if self._problem is not None:
            return self._problem
        now = time.monotonic()
        believed = sum(now < place.node.until for place in self._ready.values())
        if believed == self._shards:
            return None
        if believed < len(self._ready):
            return self._node_problem() or "what was seen of Redis is too old"
        problem = f"{self._shards - believed} of {self._shards} shards are not open"
        fences = ((shard, fence) for shard, (fence, _) in self._fences.items())
        if any(fence.is_ours and fence.epoch < self._known(shard) for shard, fence in fences):
            problem += ": the journal knows later epochs; is it another ledger's?"
        return problem

    def to_hand_in(self) -> list[Place]:
        """Return the shards, in their epochs, to which older epochs' records are to be handed in.

        Nothing is decided for them before that.
        """
        if not self._is_registered:
            return []
        return [
            Place(shard, fence.epoch, node, node.scripts)
            for shard, (fence, node) in self._fences.items()
            if node.scripts is not None
            and self._is_open(shard, fence)
            and not self._has_handed_in(shard, fence)
        ]

    def handed_in(self, shard: int, epoch: int) -> None:
        """Know that a shard has all records of this sidecar's older epochs, and the mark."""
        self._handed_in[shard] = epoch
        self._open()

    @property
    def memory_ratio(self) -> float:
        """How full Redis is: of several nodes the fullest."""
        return self._looker.memory_ratio

    def suspect(self) -> None:
        """Look again at once."""
        self.suspected.set()

    def give_up(self, node: Node) -> None:
        """Believe nothing of what was seen of a node, and look again at once."""
        node.give_up()
        self._is_believed = False
        self.suspected.set()

    # What is seen ----------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Look at Redis, unless somebody else does so from now on.

        Raises `StoreUnavailable` when there is nothing to see, and `SettingsError` when it is a
        Redis that may forget what it is told.
        """
        asked_at = time.monotonic()
        async with self._lock:
            if self._looked_at > asked_at and self._is_believed:
                return
            self._is_believed = False
            try:
                await self._look()
            except SettingsError as error:
                self._failed(str(error))
                raise

    async def renew(self, node: Node) -> None:
        """Begin anew after a sign that a node is not what it was. Raises `StoreUnavailable`."""
        self.give_up(node)
        await self.look_again()

    async def look_again(self) -> None:
        """Look now. Raises `StoreUnavailable`."""
        try:
            await self.refresh()
        except SettingsError as error:
            raise StoreUnavailable(str(error)) from error

    async def leave(self) -> None:
        """Say goodbye. Raises as `refresh`."""
        self._looker.is_leaving = True
        await self.refresh()

    async def _look(self) -> None:
        began = time.monotonic()
        try:
            seen = await self._looker.look()
        except StoreUnavailable as error:
            raise self._failed(str(error)) from error
        self._know_registration(is_registered=seen.is_registered)
        self._shards = seen.shards
        self._saw(seen.sights, began)

    def _know_registration(self, *, is_registered: bool) -> None:
        if is_registered and not self._is_registered:
            # The ledger may have begun to wait for this sidecar only now.
            self._handed_in.clear()
        self._is_registered = is_registered
        self._metrics.registered.set(is_registered)

    def _saw(self, sights: Mapping[Node, Sight | None], began: float) -> None:
        # Of a node without an answer what was seen before is believed while its lease runs.
        silent = {node for node, sight in sights.items() if sight is None}
        fences = {shard: seen for shard, seen in self._fences.items() if seen[1] in silent}
        for node, sight in sights.items():
            for shard, fence in sight.fences.items() if sight else ():
                fences[shard] = fence, node
                if fence.cursor is not None:
                    self._shelf.confirm(shard, *fence.cursor)
        self._count_changes(fences)
        self._fences, self._looked_at = fences, began
        self._metrics.redis_memory_ratio.set(self.memory_ratio)
        self._open()
        self._problem = self._obstacle()
        self._is_believed = self._problem is None
        for node, sight in sights.items():
            if self._problem is not None:
                node.until = 0.0
            elif sight is not None:
                node.until = began + LEASE_SECONDS

    def _open(self) -> None:
        self._ready = {
            shard: Place(shard, fence.epoch, node, node.scripts)
            for shard, (fence, node) in self._fences.items()
            if node.scripts is not None
            and self._is_open(shard, fence)
            and self._has_handed_in(shard, fence)
        }
        self._metrics.shards_open.set(len(self._ready))

    def _is_open(self, shard: int, fence: Fence) -> bool:
        """Tell whether a fence names this process, and is not older than what was known before."""
        return fence.is_ours and fence.epoch >= self._known(shard)

    def _known(self, shard: int) -> int:
        return max(self._newest.get(shard, 0), self._shelf.unconfirmed.newest_epoch(shard))

    def _has_handed_in(self, shard: int, fence: Fence) -> bool:
        if self._handed_in.get(shard) == fence.epoch:
            return True
        return not (fence.is_draining or self._shelf.unconfirmed.has_older(shard, fence.epoch))

    def _count_changes(self, fences: Mapping[int, tuple[Fence, Node]]) -> None:
        for shard, (fence, _) in fences.items():
            before = self._fences.get(shard)
            if before is not None and before[0].epoch != fence.epoch:
                self._metrics.fence_changes.labels("epoch").inc()
            elif before is not None and before[0].is_ours and not fence.is_ours:
                self._metrics.fence_changes.labels("process").inc()
            if fence.is_ours:
                self._newest[shard] = max(self._newest.get(shard, 0), fence.epoch)

    def _obstacle(self) -> str | None:
        if not self._shards:
            return "no worker has opened the shards yet"
        if not self._is_registered:
            return "no worker has registered this sidecar yet"
        if not any(fence.is_ours for fence, _ in self._fences.values()):
            return self._node_problem() or "no shard is open on this Redis: a worker is to open it"
        return None

    def _node_problem(self) -> str | None:
        problems = (node.problem for _, node in self._fences.values())
        return next((problem for problem in problems if problem), None)

    def _failed(self, problem: str) -> StoreUnavailable:
        if problem != self._problem:
            log.error("not ready to decide", extra={"error": problem})
        self._problem = problem
        return StoreUnavailable(problem)
