"""What this sidecar may decide now: for which shards, in which epoch, by which Redis process.

Whatever was seen of Redis is believed for `LEASE_SECONDS` from before it was asked. An answer goes
out only while the lease runs and the shard is in the epoch in which the call ran: a sidecar that
was asleep, cut off or overtaken by a loss never acknowledges what nobody will ask it for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from sidecar import keys
from sidecar.durable import LEASE_SECONDS, require_durable
from sidecar.errors import SettingsError, StoreUnavailable
from sidecar.meter.shelf import Shelf
from sidecar.meter.sight import Fence, Sight, look
from sidecar.meter.wire import FAULTS, Wire
from sidecar.metrics import MeterMetrics
from sidecar.scripts import Scripts, load_scripts

log: Final = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call runs: the shard, its epoch, and the scripts of the process that may decide."""

    shard: int
    epoch: int
    scripts: Scripts


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


class Lease:
    """Looks at Redis, and says what may be decided by what it saw."""

    def __init__(
        self,
        client: Redis,
        shelf: Shelf,
        identity: Identity,
        metrics: MeterMetrics,
        *,
        timeout_ms: int,
        is_unsafe_allowed: bool,
    ) -> None:
        self._client = client
        self._shelf = shelf
        self._identity = identity
        self._metrics = metrics
        self._look_seconds = max(_LOOK_SECONDS, timeout_ms / 1000)
        self._is_unsafe_allowed = is_unsafe_allowed
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()
        self._scripts: Scripts | None = None
        self._run_id = ""
        self._is_loaded = False
        self._looked_at = 0.0
        self._until = 0.0
        self._shards = 0
        self._fences: Mapping[int, Fence] = {}
        self._newest: dict[int, int] = {}
        self._handed_in: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._problem: str | None = "Redis has not been asked yet"
        self._is_registered = False
        self.is_leaving = False
        self.memory_ratio = 0.0
        self.suspected: Final = asyncio.Event()
        metrics.lease_age.set_function(lambda: time.monotonic() - self._looked_at)

    # What may be decided ---------------------------------------------------------------------

    def place(self, account: str) -> Place:
        """Return where an account is decided. Raises `StoreUnavailable` when it is nowhere."""
        if self._scripts is None or time.monotonic() >= self._until:
            raise StoreUnavailable(self._problem or "what was seen of Redis is too old")
        shard = keys.shard_of(account, self._shards)
        epoch = self._ready.get(shard)
        if epoch is None:
            raise StoreUnavailable(f"shard {shard} is not open")
        return Place(shard, epoch, self._scripts)

    def require(self, place: Place) -> None:
        """Raise `StoreUnavailable` unless what ran at a place may be acknowledged."""
        is_same = self._ready.get(place.shard) == place.epoch and self._scripts is place.scripts
        if not is_same or time.monotonic() >= self._until:
            raise StoreUnavailable(f"shard {place.shard} may be lost since")

    @property
    def problem(self) -> str | None:
        """What keeps this sidecar from deciding for all accounts, or None."""
        if self._problem is not None:
            return self._problem
        if time.monotonic() >= self._until:
            return "what was seen of Redis is too old"
        if len(self._ready) == self._shards:
            return None
        problem = f"{self._shards - len(self._ready)} of {self._shards} shards are not open"
        if any(fence.is_ours and fence.epoch < self._known(s) for s, fence in self._fences.items()):
            problem += ": the journal knows later epochs; is it another ledger's?"
        return problem

    def to_hand_in(self) -> dict[int, int]:
        """Return the shards, with their epoch, to which older epochs' records are to be handed in.

        Nothing is decided for them before that.
        """
        if not self._is_registered:
            return {}
        return {
            shard: fence.epoch
            for shard, fence in self._fences.items()
            if self._is_open(shard, fence) and not self._has_handed_in(shard, fence)
        }

    def handed_in(self, shard: int, epoch: int) -> None:
        """Know that a shard has all records of this sidecar's older epochs, and the mark."""
        self._handed_in[shard] = epoch
        self._open()

    @property
    def scripts(self) -> Scripts | None:
        """The scripts of the process that was seen last."""
        return self._scripts

    def suspect(self) -> None:
        """Look again at once."""
        self.suspected.set()

    def give_up(self) -> None:
        """Believe nothing of what was seen, and look again at once."""
        self._until = 0.0
        self._is_loaded = False
        self.suspected.set()

    # What is seen ----------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Look at Redis, unless somebody else does so from now on.

        Raises `StoreUnavailable` when there is nothing to see, and `SettingsError` when it is a
        Redis that may forget what it is told.
        """
        asked_at = time.monotonic()
        async with self._lock:
            if self._looked_at > asked_at and self._until:
                return
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._look_seconds):
                    await self._look(began)
            except SettingsError as error:
                self._failed(str(error))
                self._until = 0.0
                raise
            except FAULTS as error:
                if isinstance(error, ReadOnlyError):
                    self._until = 0.0
                await self.close()
                raise self._failed(f"Redis: {str(error) or type(error).__name__}") from error

    async def renew(self) -> None:
        """Begin anew after a sign that Redis is not what it was. Raises `StoreUnavailable`."""
        self.give_up()
        try:
            await self.refresh()
        except SettingsError as error:
            raise StoreUnavailable(str(error)) from error

    async def close(self) -> None:
        """Close the connection; the next look opens another."""
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.close()

    async def _look(self, began: float) -> None:
        if self._wire is None:
            self._wire = Wire(self._client)
        sight = await look(self._wire, self._identity.id, self._beat())
        if not self._is_unsafe_allowed:
            require_durable(sight.info)
        if any(fence.is_ours for fence in sight.fences.values()):
            await self._know(self._wire, sight.info)
        self._saw(sight, began)

    async def _know(self, wire: Wire, info: Mapping[str, str]) -> None:
        """Load the scripts into the process that fences name, unless it is known to have them."""
        if self._is_loaded and info["run_id"] == self._run_id:
            return
        scripts = load_scripts(info["run_id"])
        loads = [("SCRIPT", "LOAD", script.text) for script in scripts.all()]
        for reply in await wire.ask(loads):
            if isinstance(reply, Exception):
                raise reply
        self._scripts, self._run_id, self._is_loaded = scripts, info["run_id"], True

    def _saw(self, sight: Sight, began: float) -> None:
        for shard, fence in sight.fences.items():
            if fence.cursor is not None:
                self._shelf.confirm(shard, *fence.cursor)
        self._count_changes(sight.fences)
        is_registered = sight.boot == self._identity.boot
        if is_registered and not self._is_registered:
            # The ledger may have begun to wait for this sidecar only now.
            self._handed_in.clear()
        self._is_registered = is_registered
        self._shards, self._fences, self._looked_at = sight.shards, sight.fences, began
        self.memory_ratio = sight.memory_ratio
        self._metrics.registered.set(is_registered)
        self._metrics.redis_memory_ratio.set(sight.memory_ratio)
        self._open()
        self._problem = self._obstacle()
        self._until = began + LEASE_SECONDS if self._problem is None else 0.0

    def _open(self) -> None:
        self._ready = {
            shard: fence.epoch
            for shard, fence in self._fences.items()
            if self._is_open(shard, fence) and self._has_handed_in(shard, fence)
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

    def _count_changes(self, fences: Mapping[int, Fence]) -> None:
        for shard, fence in fences.items():
            before = self._fences.get(shard)
            if before is not None and before.epoch != fence.epoch:
                self._metrics.fence_changes.labels("epoch").inc()
            elif before is not None and before.is_ours and not fence.is_ours:
                self._metrics.fence_changes.labels("process").inc()
            if fence.is_ours:
                self._newest[shard] = max(self._newest.get(shard, 0), fence.epoch)

    def _obstacle(self) -> str | None:
        if not self._shards:
            return "no worker has opened the shards yet"
        if not self._is_registered:
            return "no worker has registered this sidecar yet"
        if not any(fence.is_ours for fence in self._fences.values()):
            return "no shard is open on this Redis: a worker is to open it"
        return None

    def _failed(self, problem: str) -> StoreUnavailable:
        if problem != self._problem:
            log.error("not ready to decide", extra={"error": problem})
        self._problem = problem
        return StoreUnavailable(problem)

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
