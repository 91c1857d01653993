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
from sidecar.nodes import RedisNodes, raise_if_all_failed

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
    """What Redis says: of which ledger it is, which process has each shard, and its fences.

    A shard whose node does not answer is in none of them.
    """

    ledger: str | None
    shards: int | None
    timeline: str | None
    processes: Mapping[int, RedisProcess]
    fences: Mapping[int, Fence | None]

    def names(self, ledger: LedgerName) -> bool:
        """Tell whether Redis has the name of this ledger, just as it is."""
        is_same = (self.ledger, self.shards) == (ledger.id, ledger.shards)
        return is_same and (self.timeline == ledger.timeline or not ledger.timeline)

    def doubts(self, ledger: LedgerName) -> bool:
        """Tell whether the ledger's Postgres was promoted or restored since it wrote its name."""
        return bool(self.timeline and ledger.timeline) and self.timeline != ledger.timeline


def look(nodes: RedisNodes, shards: Sequence[int]) -> View:
    """Return the fences of `shards`, each with the process that has it.

    Raises `RedisChanged` when every node is a replica, and the errors of redis-py when none
    answers, or not the one that has the name of the ledger.
    """
    name: Any = nodes.home.hmget(keys.META, ["ledger", "shards", "timeline"])
    ledger, count, timeline = (None if part is None else part.decode() for part in name)
    processes: dict[int, RedisProcess] = {}
    found: dict[int, Fence | None] = {}
    looks = nodes.on_each(nodes.groups(shards, int), _look_at)
    raise_if_all_failed(looks)
    for look in looks:
        if not isinstance(look, Exception):
            process, fences = look
            processes |= dict.fromkeys(fences, process)
            found |= fences
    if len(found) < len(shards):
        nodes.doubt()
    known = int(count) if count and count.isdigit() else None
    return View(ledger, known, timeline, processes, found)


def _look_at(
    client: redis.Redis, shards: Sequence[int]
) -> tuple[RedisProcess, dict[int, Fence | None]]:
    """Return what one process says of some shards: those that it has."""
    # One connection, so one process: but it may become a replica in between.
    pipeline = client.pipeline(transaction=False)
    ask_process(pipeline)
    for shard in shards:
        pipeline.hgetall(keys.fence(shard))
    ask_process(pipeline)
    *before, _, _ = replies = pipeline.execute(raise_on_error=False)
    for reply in (*replies[:2], *replies[-2:]):
        if isinstance(reply, Exception):
            raise reply
    process = process_of(*replies[:2])
    if process_of(*replies[-2:]) != process:
        raise RedisChanged("Redis became another while it was looked at")
    fences = zip(shards, before[2:], strict=True)
    # One that has just moved to another node is looked at there, the next time.
    return process, {s: _fence(found) for s, found in fences if not isinstance(found, Exception)}


def write_name(nodes: RedisNodes, ledger: LedgerName) -> None:
    """Write which ledger it is."""
    home: Any = nodes.home
    name = {"shards": ledger.shards, "ledger": ledger.id, "timeline": ledger.timeline}
    home.hset(keys.META, mapping=name)


def write(nodes: RedisNodes, fences: Mapping[int, Fence]) -> set[int]:
    """Write fences of epochs that begin now; return the shards that have theirs.

    What older epochs left in streams is never read again: it goes first, since Redis may be full. A
    stream of the new name can only be left from a ledger that went back in time: it goes, too. The
    new one has a consumer group, by which it is told from one that was deleted and began anew.
    Raises the first error when no shard has its fence.
    """

    def clear(pipeline: Any, shard: int) -> None:
        epoch = fences[shard].epoch
        old = range(max(epoch - _OLDER_STREAMS, 0), epoch + 1)
        pipeline.unlink(*(keys.stream(shard, number) for number in old))

    def begin(pipeline: Any, shard: int) -> None:
        stream = keys.stream(shard, fences[shard].epoch)
        pipeline.xgroup_create(stream, GROUP, id="0", mkstream=True)

    def fence(pipeline: Any, shard: int) -> None:
        pipeline.hset(keys.fence(shard), mapping=_fields(fences[shard]))

    shards, failed = list(fences), None
    # The fence is last: it lets sidecars decide.
    for step in (clear, begin, fence):
        replies = nodes.ask(shards, int, step)
        failed = next((reply for reply in replies if isinstance(reply, Exception)), failed)
        shards = [s for s, reply in zip(shards, replies, strict=True) if not _is_error(reply)]
    if failed is not None and not shards:
        raise failed
    return set(shards)


def _fields(fence: Fence) -> dict[str, str | int]:
    return {
        "epoch": fence.epoch,
        "run_id": fence.process.run_id,
        "replid": fence.process.replid,
        "draining": int(fence.is_draining),
    }


def claim_streams(nodes: RedisNodes, epochs: Mapping[int, int]) -> set[int]:
    """Give streams of an older version the group that `write` gives; return whose have it."""

    def claim(pipeline: Any, shard: int) -> None:
        stream = keys.stream(shard, epochs[shard])
        pipeline.xgroup_create(stream, GROUP, id="0", mkstream=True)

    replies = nodes.ask(list(epochs), int, claim)
    return {
        shard
        for shard, reply in zip(epochs, replies, strict=True)
        if not _is_error(reply) or str(reply).startswith("BUSYGROUP")
    }


def write_flags(nodes: RedisNodes, draining: Mapping[int, bool]) -> None:
    """Say of shards whether they drain; what fails is seen and said again by the next round."""

    def flag(pipeline: Any, shard: int) -> None:
        pipeline.hset(keys.fence(shard), "draining", int(draining[shard]))

    nodes.ask(list(draining), int, flag)


def _is_error(reply: Any) -> bool:
    return isinstance(reply, Exception)


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
