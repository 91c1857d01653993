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

from sidecar import keys
from sidecar.errors import StoreUnavailable
from sidecar.meter.nodes import Nodes
from sidecar.meter.wire import FAULTS

log: Final = logging.getLogger(__name__)

_ASKED_MAX: Final = 4096
_LIST_LIVES_MS: Final = 2_000
_RECONNECT_SECONDS: Final = 0.5
_LISTEN_SECONDS: Final = 1.0
_NO_ANSWER: Final = "no answer"


class AccountLoader:
    """Asks workers for accounts. Those who ask for the same account wait for one answer."""

    def __init__(self, nodes: Nodes, *, wait_ms: int) -> None:
        self._nodes = nodes
        self._wait_seconds = wait_ms / 1000
        self._channel = f"{keys.ANSWER_CHANNEL_PREFIX}{uuid.uuid4().hex}"
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_doubted = False

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
            except (*FAULTS, StoreUnavailable):
                _give_up(waiting)
        outcome = await asyncio.shield(waiting)
        if outcome == _NO_ANSWER:
            self._is_doubted = True
        return outcome

    async def _ask(self, account: str) -> None:
        pipeline = self._nodes.home.client.pipeline(transaction=False)
        pipeline.rpush(keys.ASK, f"{self._channel} {account}")
        pipeline.pexpire(keys.ASK, _LIST_LIVES_MS)
        await pipeline.execute()

    async def _listen(self) -> None:
        while True:
            try:
                await self._read_answers()
            except (*FAULTS, StoreUnavailable) as error:
                log.debug("no answers from workers", extra={"error": str(error)})
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _read_answers(self) -> None:
        """Read answers until the home is another node or the connection is dead and does not say.

        An answer that was missed may be a sign of that: then it is asked.
        """
        home = self._nodes.home
        is_asked = False
        async with home.client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            while self._nodes.home is home:
                message = await cast(
                    Awaitable[dict[str, Any] | None], pubsub.get_message(timeout=_LISTEN_SECONDS)
                )
                if message is not None:
                    self._is_doubted = is_asked = False
                    self._answer(message)
                elif is_asked:
                    return
                elif self._is_doubted:
                    await pubsub.ping()
                    is_asked = True

    def _answer(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        account, _, outcome = message["data"].decode().rpartition(" ")
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
        waiting.set_result(_NO_ANSWER)
