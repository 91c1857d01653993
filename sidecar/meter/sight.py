"""What a look at Redis says: which processes there are, whether they know us, and the fences.

What belongs to no shard is asked first, of the home node: so one that is registered sees every
fence from then on. What a node says of itself and its shards' fences come over one connection, so
from one process.
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
class Home:
    """What belongs to no shard. `is_registered`: workers know this boot of this sidecar."""

    shards: int
    is_registered: bool


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of one node: the process, and the fences of the shards that it has."""

    info: Mapping[str, str]
    fences: Mapping[int, Fence]

    @property
    def memory_ratio(self) -> float:
        """How much of the memory that Redis may have is used."""
        limit = int(self.info.get("maxmemory") or 0) or int(
            self.info.get("total_system_memory") or 0
        )
        return int(self.info.get("used_memory") or 0) / limit if limit else 0.0


async def look_home(wire: Wire, sidecar_id: str, boot: str, beat: bytes) -> Home:
    """Give a sign of life, and return what there is to see at the home node.

    Raises what `Wire.ask` raises, and the error that the node answers: `ReadOnlyError` when it is
    a replica.
    """
    info, shards, _, confirmed = _all(
        await wire.ask(
            [
                ("INFO", "server", "replication"),
                ("HGET", keys.META, "shards"),
                ("HSET", keys.SIDECARS, sidecar_id, beat),
                ("HGET", keys.REGISTERED, sidecar_id),
            ]
        )
    )
    said = _fields(info)
    expected = keys.confirmation(boot, said["run_id"], said["master_replid"])
    return Home(int(shards or 0), confirmed == expected.encode())


async def look(wire: Wire, shards: Sequence[int]) -> Sight:
    """Return what there is to see at a node with these shards.

    Raises `ReadOnlyError` when it is a replica, and what `Wire.ask` raises.
    """
    info, *parts = await wire.ask([("INFO", *_SECTIONS), *_fence_commands(shards)])
    if isinstance(info, Exception):
        raise info
    said = _fields(info)
    if said.get("role") != "master":
        raise ReadOnlyError("the Redis that answers is a replica")
    process = said["run_id"].encode(), said["master_replid"].encode()
    # A shard that is not here, or just moves away, is answered with an error: it has no fence here.
    found = {
        shard: _fence(fields, cursor, process)
        for shard, fields, cursor in zip(shards, parts[::2], parts[1::2], strict=True)
        if not isinstance(fields, Exception) and not isinstance(cursor, Exception)
    }
    fences = {shard: fence for shard, fence in found.items() if fence is not None}
    return Sight(said, fences)


def _all(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _fields(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def _fence_commands(shards: Sequence[int]) -> Sequence[Command]:
    commands: list[Command] = []
    for shard in shards:
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
