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

GROUP: Final = "ledger"
"""Consumer group of each stream; nobody reads by it."""


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
class LedgerName:
    """Which ledger it is, into how many shards it divides its accounts, and Postgres's timeline."""

    id: str
    shards: int
    timeline: str


@dataclass(frozen=True, slots=True)
class View:
    """What one Redis process says at one moment: who it is, of which ledger, and its fences."""

    process: RedisProcess
    ledger: str | None
    shards: int | None
    timeline: str | None
    fences: Mapping[int, Fence | None]

    def names(self, ledger: LedgerName) -> bool:
        """Tell whether Redis has the name of this ledger, just as it is."""
        is_same = (self.ledger, self.shards) == (ledger.id, ledger.shards)
        return is_same and (self.timeline == ledger.timeline or not ledger.timeline)

    def doubts(self, ledger: LedgerName) -> bool:
        """Tell whether the ledger's Postgres was promoted or restored since it wrote its name."""
        return bool(self.timeline and ledger.timeline) and self.timeline != ledger.timeline


def look(client: redis.Redis, shards: Sequence[int]) -> View:
    """Return the fences of `shards` with the process that has them, read in one transaction.

    Raises `RedisChanged` when a replica answers, and the errors of redis-py.
    """
    pipeline = client.pipeline(transaction=True)
    ask_process(pipeline)
    pipeline.hmget(keys.META, ["ledger", "shards", "timeline"])
    for shard in shards:
        pipeline.hgetall(keys.fence(shard))
    server, replication, meta, *fences = pipeline.execute()
    ledger, count, timeline = (None if part is None else part.decode() for part in meta)
    return View(
        process=process_of(server, replication),
        ledger=ledger,
        shards=int(count) if count and count.isdigit() else None,
        timeline=timeline,
        fences={shard: _fence(found) for shard, found in zip(shards, fences, strict=True)},
    )


def write(client: redis.Redis, fences: Mapping[int, Fence], ledger: LedgerName) -> None:
    """Write fences of epochs that begin now, and which ledger it is.

    A stream of that name can only be left from a ledger that went back in time: it goes. The new
    one has a consumer group, by which it is told from one that was deleted and began anew.
    """
    pipeline: Any = client.pipeline(transaction=True)
    name = {"shards": ledger.shards, "ledger": ledger.id, "timeline": ledger.timeline}
    pipeline.hset(keys.META, mapping=name)
    for shard, fence in fences.items():
        stream = keys.stream(shard, fence.epoch)
        pipeline.unlink(stream)
        pipeline.xgroup_create(stream, GROUP, id="0", mkstream=True)
        fields = {
            "epoch": fence.epoch,
            "run_id": fence.process.run_id,
            "replid": fence.process.replid,
            "draining": int(fence.is_draining),
        }
        pipeline.hset(keys.fence(shard), mapping=fields)
    pipeline.execute()


def claim_streams(client: redis.Redis, epochs: Mapping[int, int]) -> None:
    """Give streams that an older version began the group that `write` gives them."""
    pipeline = client.pipeline(transaction=False)
    for shard, epoch in epochs.items():
        pipeline.xgroup_create(keys.stream(shard, epoch), GROUP, id="0", mkstream=True)
    for reply in pipeline.execute(raise_on_error=False):
        if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
            raise reply


def write_flags(
    client: redis.Redis, draining: Mapping[int, bool], epochs: Mapping[int, int]
) -> None:
    """Say of shards whether they drain; with the drain end the streams of the epochs before."""
    pipeline = client.pipeline(transaction=True)
    for shard, is_draining in draining.items():
        pipeline.hset(keys.fence(shard), "draining", int(is_draining))
        if not is_draining:
            epoch = epochs[shard]
            for before in range(max(epoch - _OLDER_STREAMS, 0), epoch):
                pipeline.unlink(keys.stream(shard, before))
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
    if not found.get("epoch", "").isdigit() or len(found["epoch"]) > _EPOCH_DIGITS:
        return None
    process = RedisProcess(found.get("run_id", ""), found.get("replid", ""))
    return Fence(int(found["epoch"]), process, found.get("draining") == "1")


_MASTER: Final = "master"
_EPOCH_DIGITS: Final = 9  # what has more was not written by a worker
_OLDER_STREAMS: Final = 8  # as many losses as may follow each other before a drain ends
