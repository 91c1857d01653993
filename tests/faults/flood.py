"""Debits at a steady rate, many in a request: more than clients with one call each could make."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from loadtests.http_client import Disconnected
from tests.faults.client import Transport
from tests.faults.flows import Account, new_id
from tests.faults.history import RETRIED_HTTP, Call, History
from tests.faults.traffic import Traffic

BATCH: Final = 50
_END_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.02


class Flood:
    """Makes `rate` debits a second through all sidecars; every batch is of one account."""

    def __init__(
        self,
        traffic: Traffic,
        ports: Sequence[int],
        history: History,
        accounts: Sequence[Account],
        *,
        rate: float,
        seed: int,
    ) -> None:
        self._traffic = traffic
        self._ports = ports
        self._history = history
        self._accounts = accounts
        self._rate = rate
        self._chance = random.Random(f"flood {seed}")
        self._transport: Transport | None = None
        self._is_ending = False
        self._pacer: asyncio.Task[None] | None = None
        self._batches: set[asyncio.Task[None]] = set()
        self.acknowledged = 0
        self.refused = 0

    def start(self) -> None:
        """Begin."""
        self._traffic.call(self._start)

    def stop(self) -> None:
        """Begin no more batches, and wait for the last to be answered."""
        self._traffic.run(self._stop(), _END_SECONDS + 10)

    def _start(self) -> None:
        self._transport = Transport(self._ports)
        self._pacer = asyncio.get_running_loop().create_task(self._pace())

    async def _stop(self) -> None:
        assert self._pacer is not None
        assert self._transport is not None
        self._is_ending = True
        await self._pacer
        if self._batches:
            _, late = await asyncio.wait(self._batches, timeout=_END_SECONDS)
            for task in late:
                task.cancel()
        self._transport.close()

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while not self._is_ending:
            while sent * BATCH < (loop.time() - began) * self._rate:
                task = loop.create_task(self._batch(sent))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)
                sent += 1
            await asyncio.sleep(_TICK_SECONDS)

    async def _batch(self, number: int) -> None:
        sidecar = number % len(self._ports)
        account = self._accounts[number % len(self._accounts)].name
        calls = [self._debit(account, sidecar) for _ in range(BATCH)]
        waiting, deadline = calls, time.monotonic() + _END_SECONDS
        while waiting and time.monotonic() < deadline:
            await self._send(waiting, sidecar)
            waiting = [call for call in calls if call.done is None and call.refusal is None]
            self.refused += len(waiting)
            if self._is_ending:
                deadline = min(deadline, time.monotonic() + _END_SECONDS / 2)
            await asyncio.sleep(0.2 if waiting else 0)
        self.acknowledged += sum(call.done is not None for call in calls)

    def _debit(self, account: str, home: int) -> Call:
        amount = self._chance.randint(1, 100)
        body = {"account": account, "id": new_id(self._chance), "amount": amount}
        return self._history.begin(account, "debit", body, home)

    async def _send(self, calls: Sequence[Call], sidecar: int) -> None:
        assert self._transport is not None
        now = time.monotonic()
        attempts = [self._history.attempt(call, sidecar, now) for call in calls]
        body = {"operations": [{"op": "debit", **call.body} for call in calls]}
        try:
            http, answer = await self._transport.send(sidecar, "batch", body)
            results = json.loads(answer).get("results", [{"http": http}] * len(calls))
        except (Disconnected, TimeoutError) as error:
            results = [_no_answer(error)] * len(calls)
        for call, attempt, result in zip(calls, attempts, results, strict=True):
            attempt.answered = time.monotonic()
            attempt.fields = {k: v for k, v in result.items() if k != "http"}
            attempt.http = result["http"]
            self._history.write(call, attempt)


def _no_answer(error: Exception) -> dict[str, Any]:
    return {"http": min(RETRIED_HTTP), "error": f"{type(error).__name__} {error}".strip()}
