"""Redis as the hot path sees it: one script call at a time, fenced, with a deadline and no retry.

A call that gave no answer has an unknown outcome. It is never sent again from here: the caller
repeats the same id, and the script finds out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sidecar import keys
from sidecar.durable import require_durable
from sidecar.errors import ErrorCode, Refusal, SettingsError, StoreUnavailable
from sidecar.meter.loader import AccountLoader
from sidecar.metrics import MeterMetrics
from sidecar.scripts import Script, Scripts

log: Final = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 1.0
_EXPIRE_ROUNDS: Final = 64

Argument = str | int | bytes


def connect(url: str, timeout_ms: int, connections: int) -> Redis:
    """Return a client whose calls are never repeated: a repeat would run a script twice.

    A new connection says nothing before its first call. (RESP3 and the driver's name would cost
    four commands; 64 connections opened by a burst would then not be there in time.)
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_ms / 1000,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        protocol=2,
        driver_info=None,
    )
    return Redis(connection_pool=pool)


class Store:
    """Runs scripts on the accounts of the shards that are open to this sidecar."""

    def __init__(
        self,
        client: Redis,
        scripts: Scripts,
        loader: AccountLoader,
        metrics: MeterMetrics,
        *,
        timeout_ms: int,
        is_unsafe_allowed: bool,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._loader = loader
        self._metrics = metrics
        self._timeout_seconds = timeout_ms / 1000
        self._is_unsafe_allowed = is_unsafe_allowed
        self._shards = 0
        self._epochs: dict[int, int] = {}
        self._problem: str | None = "not connected to Redis yet"
        self._checked_run_id: str | None = None

    async def run(self, script: Script, account: str, args: tuple[Argument, ...]) -> list[Any]:
        """Run a script on one account and return its reply.

        Raises `StoreUnavailable` when Redis gave no answer or may not decide for the account, and
        `Refusal` (404) when the ledger does not know the account.
        """
        reply = await self._run_once(script, account, args)
        if reply[0] == b"unknown":
            await self._load(account)
            reply = await self._run_once(script, account, args)
        if reply[0] == b"fenced":
            await self.refresh()
            raise StoreUnavailable("the account is of another epoch")
        if reply[0] == b"unknown":
            raise StoreUnavailable("the account was loaded, but is not there")
        return reply

    async def _run_once(
        self, script: Script, account: str, args: tuple[Argument, ...]
    ) -> list[Any]:
        shard, epoch = self._place(account)
        names = keys.account_keys(account, shard, epoch)
        for _ in range(_EXPIRE_ROUNDS):
            reply = await self._call(script, names, (epoch, *args))
            if reply[0] != b"again":
                return reply
            await self._call(self._scripts.expire, names, (epoch,))
        raise StoreUnavailable("too much of the account expires at once")

    def _place(self, account: str) -> tuple[int, int]:
        if not self._shards:
            raise StoreUnavailable(self._problem or "no worker has opened the shards yet")
        shard = keys.shard_of(account, self._shards)
        epoch = self._epochs.get(shard)
        if epoch is None:
            raise StoreUnavailable(f"shard {shard} is not open")
        return shard, epoch

    async def _load(self, account: str) -> None:
        outcome = await self._loader.load(account)
        self._metrics.account_loads.labels(outcome).inc()
        if outcome == "unknown":
            raise Refusal(ErrorCode.ACCOUNT_NOT_FOUND, "There is no such account.")
        if outcome != "loaded":
            raise StoreUnavailable(f"the account could not be loaded: {outcome}")

    async def _call(
        self, script: Script, names: tuple[str, ...], args: tuple[Argument, ...]
    ) -> list[Any]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await self._evaluate(script, names, args)
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.redis_errors.labels(type(error).__name__).inc()
            if isinstance(error, ResponseError):
                log.error("Redis refused a script", extra={"script": script.name, "error": error})
            raise StoreUnavailable(f"Redis: {str(error) or type(error).__name__}") from error
        self._metrics.redis_seconds.observe(time.perf_counter() - started)
        return reply

    async def _evaluate(
        self, script: Script, names: tuple[str, ...], args: tuple[Argument, ...]
    ) -> list[Any]:
        call = cast(Callable[..., Awaitable[list[Any]]], self._client.evalsha)
        try:
            return await call(script.sha, len(names), *names, *args)
        except NoScriptError:
            # Redis did nothing yet: it does not know the script, after a restart or a flush.
            await self._client.script_load(script.text)
            return await call(script.sha, len(names), *names, *args)

    # What the sidecar may decide ------------------------------------------------------------

    async def start(self) -> None:
        """Connect and learn the shards. Raises `SettingsError` when Redis may lose what it is told.

        A Redis that cannot be reached is no error here: the sidecar is not ready until it can.
        """
        self._loader.start()
        try:
            await self.refresh()
        except StoreUnavailable as error:
            log.warning("Redis is not there yet", extra={"error": str(error)})

    async def watch(self) -> None:
        """Keep the shards' epochs fresh for as long as the sidecar lives."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self.refresh()
            except (StoreUnavailable, SettingsError) as error:
                if self._problem != str(error):
                    log.error("not ready to decide", extra={"error": str(error)})
                self._problem = str(error)

    async def refresh(self) -> None:
        """Read which shards are open, and check the Redis process when it is a new one."""
        try:
            async with asyncio.timeout(max(1.0, self._timeout_seconds)):
                await self._check_process()
                await self._read_fences()
        except SettingsError:
            self._epochs = {}
            raise
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis: {str(error) or type(error).__name__}") from error
        self._problem = None

    async def _check_process(self) -> None:
        info = await self._client.info("server", "persistence", "memory")
        if info["run_id"] == self._checked_run_id:
            return
        if not self._is_unsafe_allowed:
            require_durable(info)
        for script in self._scripts.all():
            await self._client.script_load(script.text)
        self._checked_run_id = info["run_id"]

    async def _read_fences(self) -> None:
        shards = await cast(Awaitable[bytes | None], self._client.hget(keys.META, "shards"))
        self._shards = int(shards or 0)
        pipeline = self._client.pipeline(transaction=False)
        for shard in range(self._shards):
            pipeline.hget(keys.fence(shard), "epoch")
        epochs = await pipeline.execute() if self._shards else []
        self._epochs = {shard: int(epoch) for shard, epoch in enumerate(epochs) if epoch}
        self._metrics.shards_open.set(len(self._epochs))

    async def problem(self) -> str | None:
        """Return what keeps the sidecar from deciding now, or None when it can."""
        try:
            await self.refresh()
        except (StoreUnavailable, SettingsError) as error:
            return str(error)
        if not self._shards:
            return "no worker has opened the shards yet"
        if len(self._epochs) < self._shards:
            return f"{self._shards - len(self._epochs)} of {self._shards} shards are not open"
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self._loader.close()
        await self._client.aclose()
