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
from sidecar.nodes import FAULTS, RedisNodes

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
    failed: Exception | None = None
    for client, mine in nodes.groups(shards, int):
        try:
            process, fences = _look_at(client, mine)
        except (*FAULTS, RedisChanged) as error:
            failed = error
            continue
        processes |= dict.fromkeys(fences, process)
        found |= fences
    if len(found) < len(shards):
        nodes.doubt()
    if failed is not None and not processes:
        raise failed
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


def write(nodes: RedisNodes, fences: Mapping[int, Fence], ledger: LedgerName) -> None:
    """Write fences of epochs that begin now, and which ledger it is.

    A stream of that name can only be left from a ledger that went back in time: it goes. The new
    one has a consumer group, by which it is told from one that was deleted and began anew.
    """
    home: Any = nodes.home
    name = {"shards": ledger.shards, "ledger": ledger.id, "timeline": ledger.timeline}
    home.hset(keys.META, mapping=name)
    streams = {shard: keys.stream(shard, fence.epoch) for shard, fence in fences.items()}

    def clear(pipeline: Any, shard: int) -> None:
        pipeline.unlink(streams[shard])

    def begin(pipeline: Any, shard: int) -> None:
        pipeline.xgroup_create(streams[shard], GROUP, id="0", mkstream=True)

    def fence(pipeline: Any, shard: int) -> None:
        pipeline.hset(keys.fence(shard), mapping=_fields(fences[shard]))

    # The fence is last: it lets sidecars decide.
    for step in (clear, begin, fence):
        _check(nodes.ask(list(fences), int, step))


def _fields(fence: Fence) -> dict[str, str | int]:
    return {
        "epoch": fence.epoch,
        "run_id": fence.process.run_id,
        "replid": fence.process.replid,
        "draining": int(fence.is_draining),
    }


def claim_streams(nodes: RedisNodes, epochs: Mapping[int, int]) -> None:
    """Give streams that an older version began the group that `write` gives them."""

    def claim(pipeline: Any, shard: int) -> None:
        stream = keys.stream(shard, epochs[shard])
        pipeline.xgroup_create(stream, GROUP, id="0", mkstream=True)

    replies = nodes.ask(list(epochs), int, claim)
    _check([reply for reply in replies if not str(reply).startswith("BUSYGROUP")])


def write_flags(nodes: RedisNodes, draining: Mapping[int, bool], epochs: Mapping[int, int]) -> None:
    """Say of shards whether they drain; with the drain end the streams of the epochs before."""

    def flag(pipeline: Any, shard: int) -> None:
        pipeline.hset(keys.fence(shard), "draining", int(draining[shard]))

    def forget(pipeline: Any, shard: int) -> None:
        before = range(max(epochs[shard] - _OLDER_STREAMS, 0), epochs[shard])
        pipeline.unlink(*(keys.stream(shard, epoch) for epoch in before))

    _check(nodes.ask(list(draining), int, flag))
    over = [shard for shard, is_draining in draining.items() if not is_draining]
    _check(nodes.ask(over, int, forget))


def _check(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


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
