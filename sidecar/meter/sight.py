"""What one look at Redis says: which process it is, whether it knows us, and every shard's fence.

All of it comes over one connection, so from one process; the fences are read after the answer
about the registration, so that one that is registered sees every fence from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ReadOnlyError

from sidecar import keys
from sidecar.meter.wire import Command, Wire

_SECTIONS: Final = ("server", "replication", "memory", "persistence")


@dataclass(frozen=True, slots=True)
class Fence:
    """One shard's fence and cursor. `is_ours`: it names the very process that we read it from."""

    epoch: int
    is_ours: bool
    is_draining: bool
    cursor: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen. `boot` is the one that workers have confirmed of this sidecar."""

    info: Mapping[str, str]
    shards: int
    boot: str
    fences: Mapping[int, Fence]

    @property
    def memory_ratio(self) -> float:
        """How much of the memory that Redis may have is used."""
        limit = int(self.info.get("maxmemory") or 0) or int(
            self.info.get("total_system_memory") or 0
        )
        return int(self.info.get("used_memory") or 0) / limit if limit else 0.0


async def look(wire: Wire, sidecar_id: str, beat: bytes) -> Sight:
    """Give a sign of life and return what there is to see.

    Raises `ReadOnlyError` when a replica answers, and what `Wire.ask` raises.
    """
    first = _all(
        await wire.ask(
            [
                ("INFO", *_SECTIONS),
                ("HGET", keys.META, "shards"),
                ("HSET", keys.SIDECARS, sidecar_id, beat),
                ("HGET", keys.REGISTERED, sidecar_id),
            ]
        )
    )
    info, shards, _, boot = first
    said = _fields(info)
    if said.get("role") != "master":
        raise ReadOnlyError("the Redis that answers is a replica")
    count = int(shards or 0)
    parts = _all(await wire.ask(_fence_commands(count))) if count else []
    process = said["run_id"].encode(), said["master_replid"].encode()
    found = {s: _fence(parts[2 * s], parts[2 * s + 1], process) for s in range(count)}
    fences = {shard: fence for shard, fence in found.items() if fence is not None}
    return Sight(said, count, (boot or b"").decode(), fences)


def _all(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _fields(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def _fence_commands(shards: int) -> Sequence[Command]:
    commands: list[Command] = []
    for shard in range(shards):
        commands.append(("HMGET", keys.fence(shard), "epoch", "run_id", "replid", "draining"))
        commands.append(("GET", keys.cursor(shard)))
    return commands


def _fence(
    fields: list[bytes | None], cursor: bytes | None, process: tuple[bytes, bytes]
) -> Fence | None:
    epoch, run_id, replid, draining = fields
    if epoch is None or not epoch.isdigit():
        return None
    return Fence(int(epoch), (run_id, replid) == process, draining == b"1", _cursor(cursor or b""))


def _cursor(text: bytes) -> tuple[int, str] | None:
    epoch, _, stream_id = text.decode(errors="replace").partition(" ")
    return (int(epoch), stream_id) if epoch.isdigit() and "-" in stream_id else None
