"""The sweep: holds and grants that expire while nobody touches their account."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from persistence.pipelines import Call, call_reachable
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes, raise_if_all_failed

_log: Final = logging.getLogger(__name__)

SHARD_ACCOUNTS: Final = 100
"""Accounts of one shard that one round visits; what is beyond them comes the next time."""

_ROUNDS: Final = 1_000


class Sweeper:
    """Visits the accounts of which something is due. Several workers may run one."""

    def __init__(self, engine: Engine, nodes: RedisNodes, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._nodes = nodes
        self._metrics = metrics
        self._failing: set[str] = set()

    def run_once(self) -> int:
        """End what is due in every open shard; return of how many accounts something ended.

        Raises `RedisChanged` and the errors of SQLAlchemy and redis-py.
        """
        with self._engine.connect() as connection:
            shards = connection.execute(_OPEN_SHARDS).all()
        due = self._due([(row.shard, row.epoch, row.run_id) for row in shards])
        failed: set[str] = set()
        waiting = due
        for _ in range(_ROUNDS):
            if not waiting:
                break
            waiting = self._expire(waiting, failed)
        self._failing = failed
        swept = len(due) - len(failed)
        self._metrics.swept_accounts.inc(swept)
        # What fails is not work done: the next round waits for it.
        return swept

    def _due(self, shards: list[tuple[int, int, str]]) -> list[Call]:
        """Return the calls for what is due by the clock of Redis: of each node its own."""
        groups = self._nodes.groups(shards, lambda place: place[0])
        found = self._nodes.on_each(groups, _due_at)
        raise_if_all_failed(found)
        return [call for calls in found if not isinstance(calls, Exception) for call in calls]

    def _expire(self, calls: list[Call], failed: set[str]) -> list[Call]:
        """Make each call once; return those of accounts that have more to end."""
        replies = call_reachable(self._nodes, calls)
        more = []
        for call, reply in zip(calls, replies, strict=True):
            status: Any = reply if isinstance(reply, Exception) else reply[0]
            if status == b"done":
                if reply[1]:
                    more.append(call)
            elif status in (b"unknown", b"fenced") and self._is_forgotten(call):
                continue
            else:
                failed.add(call.account)
                if call.account not in self._failing:
                    fields = {"account": call.account, "status": str(status)}
                    _log.warning("account not swept", extra=fields)
        return more

    def _is_forgotten(self, call: Call) -> bool:
        """Take an account that is gone, or left from an older epoch, from the sweep; tell if it is.

        Whoever asks for it next finds out; the sweep need not.
        """
        name = keys.account_keys(call.account, call.shard, call.epoch)[0]
        pipeline: Any = self._nodes.of(call.shard).pipeline()
        with pipeline:
            # If it is opened meanwhile, its place in the sweep is a new one, and stays.
            pipeline.watch(name)
            epoch = pipeline.hget(name, "epoch")
            if epoch is not None and int(epoch) >= call.epoch:
                return False
            pipeline.multi()
            pipeline.zrem(keys.sweep(call.shard), call.account)
            with contextlib.suppress(redis.WatchError):
                pipeline.execute()
        return True


def _due_at(client: Any, places: list[tuple[int, int, str]]) -> list[Call]:
    seconds, microseconds = client.time()
    now = int(seconds) * 1000 + int(microseconds) // 1000
    pipeline = client.pipeline(transaction=False)
    for shard, _, _ in places:
        pipeline.zrangebyscore(keys.sweep(shard), "-inf", now, 0, SHARD_ACCOUNTS)
    replies = pipeline.execute(raise_on_error=False)
    return [
        Call("expire", name.decode(), *place)
        for place, names in zip(places, replies, strict=True)
        if not isinstance(names, Exception)  # it is just moving to another node
        for name in names
    ]


_OPEN_SHARDS: Final = sa.text(
    "SELECT shard, epoch, run_id FROM shards"
    " WHERE state = 'open' AND is_fenced AND epoch > 0 ORDER BY shard"
)
