"""Waiting until nothing is on its way any more: only then can everything be compared exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any, Final

import httpx
import redis
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from sidecar import keys
from tests.faults.stack import Stack

_POLL_SECONDS: Final = 0.05
_LAG: Final = re.compile(r"^credits_flush_lag_seconds (\S+)$", re.MULTILINE)
_PENDING: Final = re.compile(r"^credits_degraded_pending (\S+)$", re.MULTILINE)


class NotQuiet(Exception):
    """Raised when something is still on its way after the time that it may take."""


def wait_quiet(stack: Stack, *, seconds: float) -> float:
    """Wait until every journal is in, every event flushed and every account reopened.

    Returns how many seconds that took. Raises `NotQuiet` with what is still open.
    """
    started = monotonic()
    while True:
        problems = list(_problems(stack))
        if not problems:
            return monotonic() - started
        if monotonic() - started > seconds:
            raise NotQuiet(f"after {seconds:.0f} s: " + "; ".join(problems))
        sleep(_POLL_SECONDS)


def flush_lag(stack: Stack) -> float:
    """Return for how many seconds the oldest event waits for the ledger, as a worker says."""
    url = f"http://127.0.0.1:{stack.workers[0].port}/metrics"
    with httpx.Client(trust_env=False, timeout=5) as client:
        found = _LAG.search(client.get(url).text)
    return float("inf") if found is None else float(found[1])


def _problems(stack: Stack) -> Iterator[str]:
    try:
        yield from _of_sidecars(stack)
        yield from _of_ledger(stack)
        yield from _of_streams(stack)
    except (httpx.HTTPError, DBAPIError, redis.RedisError, OSError) as error:
        yield f"{type(error).__name__}: {error}"


def _of_sidecars(stack: Stack) -> Iterator[str]:
    with httpx.Client(trust_env=False, timeout=5) as client:
        for sidecar in stack.sidecars:
            url = f"http://127.0.0.1:{sidecar.port}"
            if client.get(f"{url}/readyz").status_code != 200:
                yield f"{sidecar.name} is not ready"
            found = _PENDING.search(client.get(f"{url}/metrics").text)
            if found is None or float(found[1]) > 0:
                yield f"{sidecar.name} has calls to make good"


def _of_ledger(stack: Stack) -> Iterator[str]:
    with stack.engine.connect() as connection:
        for what, query in _QUERIES.items():
            count = int(connection.scalars(query).one())
            if count:
                yield f"{what}: {count}"


def _of_streams(stack: Stack) -> Iterator[str]:
    with stack.engine.connect() as connection:
        rows = connection.execute(_SHARDS).all()
    with stack.redis() as nodes:
        infos = nodes.ask(
            rows,
            lambda row: int(row.shard),
            lambda pipeline, row: pipeline.xinfo_stream(keys.stream(row.shard, row.epoch)),
        )
    behind = [row.shard for row, info in zip(rows, infos, strict=True) if _is_behind(row, info)]
    if behind:
        yield f"shards with events that are not flushed: {behind}"


def _is_behind(row: Any, info: Any) -> bool:
    added = 0 if isinstance(info, Exception) else int(info["entries-added"])
    return bool(added != row.flushed_events)


_QUERIES: Final = {
    "shards that are not open": sa.text(
        "SELECT count(*) FROM shards WHERE epoch > 0 AND (state <> 'open' OR NOT is_fenced)"
    ),
    "journals that are not in": sa.text(
        "SELECT count(*) FROM drains d JOIN shards s ON s.shard = d.shard AND s.epoch = d.epoch"
        " WHERE d.handed_in_ms IS NULL"
    ),
    "accounts to be reopened": sa.text(
        "SELECT count(*) FROM accounts a"
        " JOIN generations g ON g.account = a.account AND g.gen = a.generation"
        " JOIN shards s ON s.shard = g.shard WHERE g.epoch < s.epoch"
    ),
    "refills that are not applied": sa.text(
        "SELECT count(*) FROM refills WHERE applied_ms IS NULL AND voided_ms IS NULL"
    ),
}

_SHARDS: Final = sa.text("SELECT shard, epoch, flushed_events FROM shards WHERE epoch > 0")
