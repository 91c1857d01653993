"""Shards: opened by a worker, and fenced when Redis is not the one that the ledger lent to.

A shard's fence key names its epoch and the Redis process that may decide for it. It is written
after Postgres has the same; sidecars decide for a shard only while its fence fits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.errors import RedisMismatch
from persistence.generations import OPENING_LOCK
from sidecar import keys
from sidecar.durable import require_durable
from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RedisProcess:
    """Which Redis answers: another `run_id` after a restart, another `replid` after a promotion."""

    run_id: str
    replid: str


@dataclass(slots=True)
class Opened:
    """The shards by what a round found: `opened` anew, `kept` open, `lost`."""

    opened: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class ShardOpener:
    """Opens shards and keeps their fences. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        metrics: WorkerMetrics,
        *,
        is_unsafe_allowed: bool = False,
    ) -> None:
        self._engine = engine
        self._redis = client
        self._metrics = metrics
        self._is_unsafe_allowed = is_unsafe_allowed
        self._lost: list[int] = []

    def open_shards(self) -> Opened:
        """Bring every shard to what Redis shows: open, opened for the first time, or lost.

        A shard whose fence is gone is `lost`, unless no account of it ever had anything in Redis.
        Raises `SettingsError` when Redis may forget, `RedisMismatch` when it belongs to another
        ledger, and the errors of SQLAlchemy and redis-py.
        """
        if not self._is_unsafe_allowed:
            require_durable(dict(self._redis.info()))
        with self._engine.connect() as connection:
            # Held over commit and fences: two workers that open at once must not mix them.
            connection.execute(sa.text("SELECT pg_advisory_lock(:k)"), {"k": OPENING_LOCK})
            connection.commit()
            try:
                with connection.begin():
                    opened = self._open_all(connection)
                # Only now does Postgres have it: a fence must never outlive a rollback.
                self._write_fences(connection, opened)
            finally:
                connection.rollback()
                connection.execute(sa.text("SELECT pg_advisory_unlock(:k)"), {"k": OPENING_LOCK})
                connection.commit()
        self._metrics.fenced_shards.set(len(opened.lost))
        self._report(opened)
        return opened

    def run_once(self) -> int:
        """Open shards if something of them changed; return how many are open.

        Looks at Redis and Postgres without locking anything while all is as it should be.
        """
        with self._engine.connect() as connection:
            rows = connection.execute(_STATES).all()
        process = redis_process(self._redis)
        pipeline = self._redis.pipeline(transaction=False)
        for row in rows:
            pipeline.hmget(keys.fence(row.shard), "epoch", "run_id", "replid")
        fences = pipeline.execute()
        expected = [[str(row.epoch), process.run_id, process.replid] for row in rows]
        found = [[(part or b"").decode() for part in fence] for fence in fences]
        if found == expected and all(row.state == "open" and row.epoch > 0 for row in rows):
            self._metrics.fenced_shards.set(0)
            return len(rows)
        opened = self.open_shards()
        return len(opened.opened) + len(opened.kept)

    def _open_all(self, connection: Connection) -> Opened:
        self._check_ledger(connection)
        rows = connection.execute(_SHARDS).all()
        fences = self._fences([row.shard for row in rows])
        opened = Opened()
        for row, fence in zip(rows, fences, strict=True):
            if row.epoch > 0 and fence == row.epoch:
                opened.kept.append(row.shard)
            elif (fence or 0) <= row.epoch and not row.is_used:
                opened.opened.append(row.shard)
            else:
                opened.lost.append(row.shard)
        connection.execute(_OPEN, {"shards": opened.opened})
        connection.execute(_ADOPT, {"shards": opened.opened})
        connection.execute(_SET_STATE, {"shards": opened.kept, "state": "open"})
        connection.execute(_SET_STATE, {"shards": opened.lost, "state": "lost"})
        return opened

    def _check_ledger(self, connection: Connection) -> None:
        row = connection.execute(_LEDGER).one()
        found: Any = self._redis.hget(keys.META, "ledger")
        if found is not None and found.decode() != str(row.ledger_id):
            raise RedisMismatch(
                f"Redis holds the accounts of ledger {found.decode()}, but Postgres is ledger"
                f" {row.ledger_id}: CREDITS_REDIS_URL and CREDITS_POSTGRES_URL do not belong"
                " together."
            )

    def _fences(self, shards: Sequence[int]) -> list[int | None]:
        """Return the epoch in each fence, or None where there is none."""
        pipeline = self._redis.pipeline(transaction=False)
        for shard in shards:
            pipeline.hget(keys.fence(shard), "epoch")
        return [None if value is None else int(value) for value in pipeline.execute()]

    def _write_fences(self, connection: Connection, opened: Opened) -> None:
        """Write the fences of the open shards as Postgres has them now."""
        process = redis_process(self._redis)
        ledger = connection.execute(_LEDGER).one()
        epochs = {row.shard: int(row.epoch) for row in connection.execute(_EPOCHS)}
        pipeline = self._redis.pipeline(transaction=False)
        for shard in (*opened.opened, *opened.kept):
            fence = {"epoch": epochs[shard], "run_id": process.run_id, "replid": process.replid}
            _set_fields(pipeline, keys.fence(shard), fence)
        meta = {"shards": int(ledger.shards), "ledger": str(ledger.ledger_id)}
        _set_fields(pipeline, keys.META, meta)
        pipeline.execute()

    def _report(self, opened: Opened) -> None:
        if opened.opened:
            _log.info("shards opened", extra={"shards": len(opened.opened)})
        if opened.lost and opened.lost != self._lost:
            _log.critical(
                "shards lost: Redis does not have what the ledger lent to it",
                extra={"shards": len(opened.lost), "of": len(opened.lost) + len(opened.kept)},
            )
        self._lost = opened.lost


def _set_fields(pipeline: Any, key: str, fields: Mapping[str, object]) -> None:
    pipeline.hset(key, mapping=fields)


def redis_process(client: redis.Redis) -> RedisProcess:
    """Return which Redis answers on this client."""
    server: Any = client.info("server")
    replication: Any = client.info("replication")
    return RedisProcess(str(server["run_id"]), str(replication["master_replid"]))


_LEDGER: Final = sa.text("SELECT ledger_id, shards FROM ledger")

_EPOCHS: Final = sa.text("SELECT shard, epoch FROM shards WHERE state = 'open' AND epoch > 0")

_STATES: Final = sa.text("SELECT shard, epoch, state FROM shards ORDER BY shard")

_SHARDS: Final = sa.text(
    """
    SELECT s.shard, s.epoch, s.state, EXISTS (
        SELECT FROM generations g
        WHERE g.shard = s.shard AND (g.applied_refill_no > 0 OR g.seq > 0)) AS is_used
    FROM shards s ORDER BY s.shard FOR NO KEY UPDATE OF s
    """
)

_SHARD_LIST: Final = sa.bindparam("shards", type_=ARRAY(sa.Integer))

_OPEN: Final = sa.text(
    """
    UPDATE shards SET epoch = epoch + 1, state = 'open', cursor = '0-0', flushed_events = 0
    WHERE shard = ANY(:shards)
    """
).bindparams(_SHARD_LIST)

# Nothing of these generations was ever in Redis: they begin in the new epoch.
_ADOPT: Final = sa.text(
    """
    UPDATE generations g SET epoch = s.epoch FROM shards s
    WHERE s.shard = ANY(:shards) AND g.shard = s.shard AND g.state = 'open' AND g.epoch <> s.epoch
    """
).bindparams(_SHARD_LIST)

_SET_STATE: Final = sa.text(
    "UPDATE shards SET state = :state WHERE shard = ANY(:shards) AND state <> :state"
).bindparams(_SHARD_LIST)
