"""The sweep: holds and grants that expire while nobody touches their account."""

from __future__ import annotations

import logging
from typing import Any, Final

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from persistence.pipelines import Call, call_many
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.scripts import Scripts

_log: Final = logging.getLogger(__name__)

SHARD_ACCOUNTS: Final = 100
"""Accounts of one shard that one round visits; what is beyond them comes the next time."""

_ROUNDS: Final = 1_000


class Sweeper:
    """Visits the accounts of which something is due. Several workers may run one."""

    def __init__(
        self, engine: Engine, client: redis.Redis, scripts: Scripts, metrics: WorkerMetrics
    ) -> None:
        self._engine = engine
        self._redis = client
        self._scripts = scripts
        self._metrics = metrics
        self._failing: set[str] = set()

    def run_once(self) -> int:
        """End what is due in every open shard; return of how many accounts something ended.

        Raises the errors of SQLAlchemy and redis-py.
        """
        with self._engine.connect() as connection:
            shards = connection.execute(_OPEN_SHARDS).all()
        due = self._due([(row.shard, row.epoch) for row in shards])
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

    def _due(self, shards: list[tuple[int, int]]) -> list[tuple[str, int, int]]:
        """Return account, shard and epoch of what is due by the clock of Redis."""
        seconds, microseconds = self._redis.time()
        now = int(seconds) * 1000 + int(microseconds) // 1000
        pipeline = self._redis.pipeline(transaction=False)
        for shard, _ in shards:
            pipeline.zrangebyscore(keys.sweep(shard), "-inf", now, 0, SHARD_ACCOUNTS)
        return [
            (name.decode(), shard, epoch)
            for (shard, epoch), names in zip(shards, pipeline.execute(), strict=True)
            for name in names
        ]

    def _expire(
        self, accounts: list[tuple[str, int, int]], failed: set[str]
    ) -> list[tuple[str, int, int]]:
        """Call `expire` once for each account; return those that have more to end."""
        calls: list[Call] = [(self._scripts.expire, *account, ()) for account in accounts]
        replies = call_many(self._redis, calls)
        more = []
        for account, reply in zip(accounts, replies, strict=True):
            status: Any = reply if isinstance(reply, Exception) else reply[0]
            if status == b"done":
                if reply[1]:
                    more.append(account)
            elif status == b"unknown":
                # Its keys are gone: whoever asks for it next finds out; the sweep need not.
                self._redis.zrem(keys.sweep(account[1]), account[0])
            else:
                failed.add(account[0])
                if account[0] not in self._failing:
                    fields = {"account": account[0], "status": str(status)}
                    _log.warning("account not swept", extra=fields)
        return more


_OPEN_SHARDS: Final = sa.text(
    "SELECT shard, epoch FROM shards WHERE state = 'open' AND epoch > 0 ORDER BY shard"
)
