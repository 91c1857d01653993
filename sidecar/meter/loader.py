"""Accounts that Redis does not have: asked of a worker, through Redis.

A sidecar never opens Postgres. It puts the name on a list, and a worker, which looks the account
up and loads it, answers on the sidecar's own channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable
from typing import Any, Final, cast

from redis.asyncio import Redis

from sidecar import keys
from sidecar.meter.wire import FAULTS

log: Final = logging.getLogger(__name__)

_ASKED_MAX: Final = 4096
_LIST_LIVES_MS: Final = 2_000
_RECONNECT_SECONDS: Final = 0.5


class AccountLoader:
    """Asks workers for accounts. Those who ask for the same account wait for one answer."""

    def __init__(self, client: Redis, *, wait_ms: int) -> None:
        self._client = client
        self._wait_seconds = wait_ms / 1000
        self._channel = f"{keys.ANSWER_CHANNEL_PREFIX}{uuid.uuid4().hex}"
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen for answers."""
        self._task = asyncio.create_task(self._listen(), name="account answers")

    async def load(self, account: str) -> str:
        """Return `loaded`, `unknown` (to the ledger), `lost`, `no answer` or `busy`."""
        waiting = self._waiting.get(account)
        if waiting is None:
            if len(self._waiting) >= _ASKED_MAX:
                return "busy"
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[account] = waiting
            waiting.add_done_callback(lambda _: self._waiting.pop(account, None))
            asyncio.get_running_loop().call_later(self._wait_seconds, _give_up, waiting)
            try:
                await self._ask(account)
            except FAULTS:
                _give_up(waiting)
        return await asyncio.shield(waiting)

    async def _ask(self, account: str) -> None:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.rpush(keys.ASK, f"{self._channel} {account}")
        pipeline.pexpire(keys.ASK, _LIST_LIVES_MS)
        await pipeline.execute()

    async def _listen(self) -> None:
        while True:
            try:
                await self._read_answers()
            except FAULTS as error:
                log.debug("no answers from workers", extra={"error": str(error)})
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _read_answers(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            while True:
                message = await cast(
                    Awaitable[dict[str, Any] | None], pubsub.get_message(timeout=None)
                )
                if message is not None:
                    self._answer(message["data"].decode())

    def _answer(self, text: str) -> None:
        account, _, outcome = text.rpartition(" ")
        waiting = self._waiting.get(account)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _give_up(waiting: asyncio.Future[str]) -> None:
    if not waiting.done():
        waiting.set_result("no answer")
