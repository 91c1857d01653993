"""Whether Redis is set up to hold credits, by what one process says of itself."""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from persistence.doctor.checks import Check, Verdict, warning_if, worst, wrong_if
from sidecar.nodes import FAULTS, RedisNodes

PART: Final = "redis"

_OLDEST: Final = (7, 0)
_SLOW_MS: Final = 5.0
_ROUND_TRIPS: Final = 9
_SMALL_BUFFER: Final = 64 * 2**20
_SETTINGS: Final = (
    "appendfsync", "client-output-buffer-limit", "min-replicas-to-write", "save",
    "stop-writes-on-bgsave-error", "timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sidecar asks of Redis: the marks of memory in percent, and its patience in ms."""

    alarm_percent: int
    refuse_percent: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Node:
    """One process: its INFO, those of its settings that it tells, and how long a call takes."""

    info: Mapping[str, Any]
    config: Mapping[str, str]
    call_ms: float

    def number(self, name: str) -> int:
        """Return a number of INFO; 0 when it is not there."""
        return int(self.info.get(name) or 0)


def check_nodes(nodes: RedisNodes, limits: Limits) -> list[Check]:
    """Return what there is to say of every node of Redis; one check if none is known."""
    try:
        clients = nodes.all()
    except FAULTS as error:
        return [_away(error)]
    if len(clients) == 1:
        return check_redis(clients[0], limits)
    return [
        dataclasses.replace(check, part=f"{PART} {_address(client)}")
        for client in clients
        for check in check_redis(client, limits)
    ]


def check_redis(client: redis.Redis, limits: Limits) -> list[Check]:
    """Return what there is to say of the node that a client reaches; one check if none answers."""
    try:
        node = _look(client)
    except FAULTS as error:
        return [_away(error)]
    return [
        _version(node),
        _role(node),
        _append_only(node),
        _append_fsync(node),
        _append_writes(node),
        _snapshots(node),
        _maxmemory(node),
        _policy(node),
        _memory(node, limits),
        _replicas(node),
        _latency(node, limits),
        _idle_timeout(node),
        _output_buffer(node),
    ]


def _away(error: Exception) -> Check:
    return Check(
        PART, "answers", Verdict.WRONG, str(error) or "no answer",
        "Without Redis nothing is decided, beyond each account's outage allowance.",
        "Start Redis, or set CREDITS_REDIS_URL to where it is.",
    )  # fmt: skip


def _address(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"{where.get('host')}:{where.get('port')}"


def _look(client: redis.Redis) -> Node:
    info: Any = client.info()
    config: dict[str, str] = {}
    for name in _SETTINGS:
        try:
            found: Any = client.config_get(name)
        except ResponseError:
            continue  # managed Redis may forbid it
        config |= {_text(key): _text(value) for key, value in found.items()}
    times = [_round_trip_ms(client) for _ in range(_ROUND_TRIPS)]
    return Node(info, config, statistics.median(times))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _round_trip_ms(client: redis.Redis) -> float:
    started = time.perf_counter()
    client.time()  # not PING, which is refused when a snapshot failed
    return (time.perf_counter() - started) * 1000


def _untold(name: str, setting: str, cost: str) -> Check:
    fix = f"CONFIG GET is forbidden here: look for `{setting}` in your provider's console."
    return Check(PART, name, Verdict.UNKNOWN, "not told", cost, fix)


def _version(node: Node) -> Check:
    found = str(node.info.get("redis_version", "?"))
    parts = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    return Check(
        PART, "version", wrong_if(parts < _OLDEST), found,
        "Before version 7 the scripts are refused, so nothing is decided.",
        "Upgrade to Redis 7 or newer, or Valkey.",
    )  # fmt: skip


def _role(node: Node) -> Check:
    found = str(node.info.get("role", "?"))
    return Check(
        PART, "role", wrong_if(found != "master"), found,
        "A replica takes no writes, so nothing is decided.",
        "Set CREDITS_REDIS_URL to the primary, or promote this one: redis-cli REPLICAOF NO ONE",
    )  # fmt: skip


def _append_only(node: Node) -> Check:
    is_on = node.number("aof_enabled") == 1
    return Check(
        PART, "appendonly", wrong_if(not is_on), "yes" if is_on else "no",
        "A restart forgets everything, and every role refuses such a Redis unless"
        " CREDITS_ALLOW_UNSAFE_REDIS=true.",
        "redis-cli CONFIG SET appendonly yes && redis-cli CONFIG REWRITE",
    )  # fmt: skip


def _append_fsync(node: Node) -> Check:
    found = node.config.get("appendfsync")
    costs = {
        "no": "A power failure loses half a minute of Redis, all of which has to come out of the"
        " sidecars' journals.",
        "always": "Each decision waits for Redis's disk, although the journals have what was"
        " acknowledged.",
    }
    cost = costs.get(found or "", "Another value than everysec loses more, or is slower.")
    if found is None:
        return _untold("appendfsync", "appendfsync", cost)
    fix = "redis-cli CONFIG SET appendfsync everysec && redis-cli CONFIG REWRITE"
    return Check(PART, "appendfsync", warning_if(found != "everysec"), found, cost, fix)


def _append_writes(node: Node) -> Check:
    write = str(node.info.get("aof_last_write_status", "ok"))
    rewrite = str(node.info.get("aof_last_bgrewrite_status", "ok"))
    return Check(
        PART, "append-only file",
        worst(wrong_if(write != "ok"), warning_if(rewrite != "ok")),
        f"last write {write}, last rewrite {rewrite}",
        "Redis takes no writes while it cannot write this file, and one that is never rewritten"
        " fills the disk.",
        "Make room on, or mend, the disk of Redis (redis-cli CONFIG GET dir), then: redis-cli"
        " BGREWRITEAOF",
    )  # fmt: skip


def _snapshots(node: Node) -> Check:
    status = str(node.info.get("rdb_last_bgsave_status", "ok"))
    is_stopping = node.config.get("save", "?") != "" and (
        node.config.get("stop-writes-on-bgsave-error", "yes") == "yes"
    )
    is_bad = status != "ok"
    return Check(
        PART, "snapshots", worst(wrong_if(is_bad and is_stopping), warning_if(is_bad)),
        f"last one {status}",
        "Redis takes no writes after a snapshot that failed, so nothing is decided.",
        "Make room on the disk of Redis, or do without snapshots: redis-cli CONFIG SET save ''",
    )  # fmt: skip


def _maxmemory(node: Node) -> Check:
    limit = node.number("maxmemory")
    return Check(
        PART, "maxmemory", warning_if(not limit), _mb(limit) if limit else "0 (no limit)",
        "Without a limit the watermarks are of the whole machine, whose kernel may kill Redis"
        " before they are reached.",
        "redis-cli CONFIG SET maxmemory 4gb && redis-cli CONFIG REWRITE (what Redis may really"
        " have)",
    )  # fmt: skip


def _policy(node: Node) -> Check:
    found = str(node.info.get("maxmemory_policy", "noeviction"))
    return Check(
        PART, "maxmemory-policy", wrong_if(found != "noeviction"), found,
        "Redis would drop balances when it is full, and every role refuses such a Redis.",
        "redis-cli CONFIG SET maxmemory-policy noeviction && redis-cli CONFIG REWRITE",
    )  # fmt: skip


def _memory(node: Node, limits: Limits) -> Check:
    used = node.number("used_memory")
    limit = node.number("maxmemory") or node.number("total_system_memory")
    percent = 100 * used / limit if limit else 0.0
    return Check(
        PART, "memory",
        worst(
            wrong_if(percent >= limits.refuse_percent), warning_if(percent >= limits.alarm_percent)
        ),
        f"{_mb(used)}, {percent:.0f} %",
        f"From {limits.refuse_percent} % on new holds and debits are refused with 503.",
        "See that workers flush (credits_unflushed_events), or give Redis more: redis-cli CONFIG"
        " SET maxmemory 8gb",
    )  # fmt: skip


def _replicas(node: Node) -> Check:
    cost = "With fewer good replicas than min-replicas-to-write Redis takes no writes."
    count, least = node.number("connected_slaves"), node.config.get("min-replicas-to-write")
    if least is None:
        return _untold("replicas", "min-replicas-to-write", cost)
    good = int(node.info.get("min_slaves_good_slaves", count))
    return Check(
        PART, "replicas", wrong_if(int(least) > good),
        f"{count} connected, {least} needed for a write", cost,
        "Bring the replicas back, or: redis-cli CONFIG SET min-replicas-to-write 0",
    )  # fmt: skip


def _latency(node: Node, limits: Limits) -> Check:
    return Check(
        PART, "latency",
        worst(wrong_if(node.call_ms >= limits.timeout_ms), warning_if(node.call_ms > _SLOW_MS)),
        f"{node.call_ms:.2f} ms for a call",
        f"Each decision takes at least that, and is a 503 after {limits.timeout_ms} ms"
        " (CREDITS_REDIS_TIMEOUT_MS).",
        "Bring sidecars and Redis into one zone; see: redis-cli --latency, redis-cli SLOWLOG GET",
    )  # fmt: skip


def _idle_timeout(node: Node) -> Check:
    cost = "Redis closes connections that are quiet for a while, and the next call meets it."
    found = node.config.get("timeout")
    if found is None:
        return _untold("idle timeout", "timeout", cost)
    fix = "redis-cli CONFIG SET timeout 0 && redis-cli CONFIG REWRITE"
    return Check(PART, "idle timeout", warning_if(found != "0"), f"{found} s", cost, fix)


def _output_buffer(node: Node) -> Check:
    cost = "A worker reads thousands of events at once: a small buffer cuts it off, for ever."
    found = re.search(r"normal (\d+) ", node.config.get("client-output-buffer-limit", ""))
    if found is None:
        return _untold("output buffer", "client-output-buffer-limit", cost)
    limit = int(found[1])
    return Check(
        PART, "output buffer", warning_if(0 < limit < _SMALL_BUFFER),
        _mb(limit) if limit else "no limit", cost,
        "redis-cli CONFIG SET client-output-buffer-limit 'normal 0 0 0'",
    )  # fmt: skip


def _mb(count: int) -> str:
    return f"{count / 2**20:,.0f} MB"
