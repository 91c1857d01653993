"""Clients at work: begun, left alone while things break, and brought to an end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from tests.faults.client import Client, Manners, Transport
from tests.faults.flows import Account, Flows
from tests.faults.history import History
from tests.faults.traffic import Traffic

_END_SECONDS: Final = 90.0


class Load:
    """Some clients, each with a sidecar of its own to which it mostly turns."""

    def __init__(
        self,
        traffic: Traffic,
        ports: Sequence[int],
        history: History,
        accounts: Sequence[Account],
        *,
        clients: int,
        seed: int,
        manners: Manners,
    ) -> None:
        self._traffic = traffic
        self._ports = ports
        self._history = history
        self._accounts = accounts
        self._clients = clients
        self._seed = seed
        self._manners = manners
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry: asyncio.Event | None = None
        self._transport: Transport | None = None

    def start(self) -> None:
        """Begin."""
        self._traffic.call(self._start)

    def stop(self) -> None:
        """Let every client finish the flow that it is in; wait for the last."""
        self._traffic.run(self._stop(), _END_SECONDS + 10)

    def _start(self) -> None:
        self._hurry = asyncio.Event()
        self._transport = Transport(self._ports)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(number)) for number in range(self._clients)]

    async def _stop(self) -> None:
        assert self._hurry is not None
        assert self._transport is not None
        self._hurry.set()
        _, late = await asyncio.wait(self._tasks, timeout=_END_SECONDS)
        for task in late:
            task.cancel()
            self._history.note(f"a client did not come to an end within {_END_SECONDS:.0f} s")
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self._history.note(f"a client failed: {result!r}")
        self._transport.close()

    async def _work(self, number: int) -> None:
        assert self._hurry is not None
        assert self._transport is not None
        chance = random.Random(f"{self._seed} {number}")
        client = Client(self._transport, self._history, self._manners, chance, self._hurry)
        accounts = [a for a in self._accounts if a.only is None or a.only == number]
        flows = Flows(client, accounts, number % len(self._ports), chance, self._manners.plain_ids)
        while not self._hurry.is_set():
            await flows.one()
