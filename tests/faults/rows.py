"""The rows of the fault table."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.faults import (
    rows_clock,
    rows_disk,
    rows_fleet,
    rows_postgres,
    rows_process,
    rows_redis,
    rows_replica,
)
from tests.faults.client import FAITHFUL, Manners
from tests.faults.episode import Row
from tests.faults.stack import Redis

_RUDE: Final = Manners(elsewhere=0.3, repeats=0.2, doubles=0.1, hang_ups=0.1, plain_ids=0.3)

# Redis is not lost: every answer, once given, stays.
_WHOLE: Final = (
    Row(
        "replies",
        "client retries, lost replies, transactions cut in the middle, two workers",
        rows_process.lost_replies,
        manners=_RUDE,
        setting=rows_process.second_worker,
    ),
    Row("sidecar-kill", "sidecar `kill -9`", rows_process.killed_sidecar),
    Row("worker-kill", "worker `kill -9`", rows_process.killed_worker),
    Row("partition", "sidecars or worker cut off from Redis", rows_redis.partitioned),
    Row("redis-stop", "Redis SIGSTOP past the lease", rows_process.stopped_redis),
    Row("worker-stop", "worker SIGSTOP past the lease", rows_process.stopped_worker),
    Row("postgres-kill", "Postgres `kill -9` in mid-commit", rows_postgres.killed_postgres),
    Row("postgres-away", "Postgres down for 3 to 8 s", rows_postgres.short_outage),
    Row(
        "postgres-down",
        "Postgres down for 60 s under 1,000 events/s",
        rows_postgres.away_postgres,
        most_cycles=1,
    ),
    Row(
        "journal-full",
        "journal at its limit (1 MB)",
        rows_disk.full_journal,
        setting=rows_disk.small_journals,
    ),
    Row(
        "disk-full",
        "disk of a journal full",
        rows_disk.full_disk,
        setting=rows_disk.small_disks,
        why_not=rows_disk.why_no_disks,
    ),
    Row("disk-writes", "every write to a journal fails", rows_disk.failing_writes),
    Row(
        "clocks",
        "clocks of Redis, sidecars, worker jump by up to 4 min",
        rows_clock.jumping_clocks,
        setting=rows_clock.loose_clocks,
        why_not=rows_clock.why_no_clocks,
    ),
)

# Redis is lost: what nobody acknowledged may be forgotten.
_LOSSY: Final = (
    Row("redis-kill", "Redis `kill -9`, restarted", rows_redis.killed_redis),
    Row("power-loss", "Redis: the end of the AOF gone", rows_redis.power_loss),
    Row("old-backup", "Redis: an AOF seconds old restored", rows_redis.old_backup),
    Row("flushall", "FLUSHALL", rows_redis.flushed),
    Row("key-deleted", "keys of one account deleted", rows_redis.deleted_account),
    Row("rebuild", "shards rebuilt by an operator", rows_redis.rebuilt),
    Row("stale-replica", "fail-over to a lagging replica", rows_replica.stale_replica),
    Row("split-brain", "split brain: one sidecar on the old master", rows_replica.split_brain),
    Row("demoted", "master demoted, and promoted again", rows_replica.demoted),
    Row("redis-down", "Redis down for seconds", rows_redis.redis_down),
    Row(
        "sidecar-stop",
        "sidecar SIGSTOP past the lease, Redis lost meanwhile or not",
        rows_process.stopped_sidecar,
    ),
    Row(
        "postgres-regressed",
        "Postgres loses its last commits",
        rows_postgres.regressed_postgres,
        setting=rows_postgres.lazy_commits,
    ),
    Row(
        "host-lost",
        "a sidecar's disk and Redis lost at once; declared dead",
        rows_disk.lost_host,
        lost="≤ that host's unflushed events",
        is_last=True,
    ),
    Row(
        "sentinel-failover",
        "Sentinel: the master killed, its replica promoted, the old one back",
        rows_fleet.sentinel_failover,
        redis=Redis.WATCHED,
    ),
    Row(
        "cluster-failover",
        "Cluster: a master killed, its replica promoted, the old one back",
        rows_fleet.cluster_failover,
        redis=Redis.CLUSTER,
    ),
    Row(
        "resharding",
        "Cluster: slots moved to other masters under load",
        rows_fleet.resharding,
        redis=Redis.CLUSTER,
    ),
)

ROWS: Final = {
    row.name: row
    for row in (*_WHOLE, *(replace(r, is_lossy=True, manners=FAITHFUL) for r in _LOSSY))
}
