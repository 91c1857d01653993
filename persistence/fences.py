"""Fences: which Redis process may decide for a shard, in which epoch, as Redis itself has it.

A fence is written after Postgres has the same. A sidecar decides for a shard only while its fence
names the very process that answers; a worker gives a shard up when the two do not agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from persistence.errors import RedisChanged
from sidecar import keys


@dataclass(frozen=True, slots=True)
class RedisProcess:
    """Which Redis answers: another `run_id` after a restart, another `replid` after a promotion."""

    run_id: str
    replid: str


@dataclass(frozen=True, slots=True)
class Fence:
    """One shard's fence. `is_draining`: sidecars are to hand in what older epochs left to them."""

    epoch: int
    process: RedisProcess
    is_draining: bool


@dataclass(frozen=True, slots=True)
class View:
    """What one Redis process says at one moment: who it is, and every fence that it has."""

    process: RedisProcess
    ledger: str | None
    shards: int | None
    fences: Mapping[int, Fence | None]


def look(client: redis.Redis, shards: Sequence[int]) -> View:
    """Return the fences of `shards` with the process that has them, read in one transaction.

    Raises `RedisChanged` when a replica answers, and the errors of redis-py.
    """
    pipeline = client.pipeline(transaction=True)
    ask_process(pipeline)
    pipeline.hmget(keys.META, ["ledger", "shards"])
    for shard in shards:
        pipeline.hgetall(keys.fence(shard))
    server, replication, meta, *fences = pipeline.execute()
    ledger, count = (None if part is None else part.decode() for part in meta)
    return View(
        process=process_of(server, replication),
        ledger=ledger,
        shards=int(count) if count and count.isdigit() else None,
        fences={shard: _fence(found) for shard, found in zip(shards, fences, strict=True)},
    )


def write(client: redis.Redis, fences: Mapping[int, Fence], ledger: str, shards: int) -> None:
    """Write fences of epochs that begin now, and which ledger it is.

    A stream of that name can only be left from a ledger that went back in time: it goes.
    """
    pipeline: Any = client.pipeline(transaction=True)
    pipeline.hset(keys.META, mapping={"shards": shards, "ledger": ledger})
    for shard, fence in fences.items():
        pipeline.unlink(keys.stream(shard, fence.epoch))
        fields = {
            "epoch": fence.epoch,
            "run_id": fence.process.run_id,
            "replid": fence.process.replid,
            "draining": int(fence.is_draining),
        }
        pipeline.hset(keys.fence(shard), mapping=fields)
    pipeline.execute()


def write_flags(
    client: redis.Redis, draining: Mapping[int, bool], epochs: Mapping[int, int]
) -> None:
    """Say of shards whether they drain; with the drain ends the stream of the epoch before."""
    pipeline = client.pipeline(transaction=True)
    for shard, is_draining in draining.items():
        pipeline.hset(keys.fence(shard), "draining", int(is_draining))
        if not is_draining:
            pipeline.unlink(keys.stream(shard, epochs[shard] - 1))
    pipeline.execute()


def ask_process(pipeline: Any) -> None:
    """Queue what `process_of` reads."""
    pipeline.info("server")
    pipeline.info("replication")


def process_of(server: Mapping[str, Any], replication: Mapping[str, Any]) -> RedisProcess:
    """Return which Redis gave these two sections of INFO. Raises `RedisChanged` for a replica."""
    if replication["role"] != _MASTER:
        raise RedisChanged("the Redis that answers is a replica: it may not decide")
    return RedisProcess(str(server["run_id"]), str(replication["master_replid"]))


def _fence(fields: Mapping[bytes, bytes]) -> Fence | None:
    found = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
    if not found.get("epoch", "").isdigit():
        return None
    process = RedisProcess(found.get("run_id", ""), found.get("replid", ""))
    return Fence(int(found["epoch"]), process, found.get("draining") == "1")


_MASTER: Final = "master"
