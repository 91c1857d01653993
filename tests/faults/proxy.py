"""A TCP proxy that fails on demand: between a sidecar and Redis, or a client and a sidecar.

It never makes up or reorders bytes, and never leaves a hole in them: a connection from which
something vanished gets nothing more, and is reset when the fault is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Final

from tests.faults.links import Link
from tests.faults.network import PASS, Address, Fault, Kind
from tests.faults.traffic import Traffic

_CONNECT_SECONDS: Final = 2.0


class Proxy:
    """Listens on a port of loopback and passes connections on to a target, which may change.

    The public methods may be called from any thread but that of the traffic.
    """

    def __init__(self, traffic: Traffic, target: Address, seed: int = 0) -> None:
        self._traffic = traffic
        self._target = target
        self._random = random.Random(seed)
        self._fault = PASS
        self._links: set[Link] = set()
        self._listener: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def target(self) -> Address:
        """Where new connections go."""
        return self._target

    def start(self) -> None:
        """Listen on a free port."""
        self._traffic.run(self._listen())

    def stop(self) -> None:
        """Reset all connections and listen no more."""
        self._traffic.call(self._close)

    def set(self, fault: Fault) -> None:
        """Behave like this from now on."""
        self._traffic.call(lambda: self._turn(fault))

    def heal(self) -> None:
        """Behave well from now on."""
        self.set(PASS)

    def move(self, target: Address) -> None:
        """Reset all connections; new ones go to another target."""

        def move() -> None:
            self._target = target
            self._reset_all()

        self._traffic.call(move)

    @contextlib.contextmanager
    def during(self, fault: Fault) -> Iterator[None]:
        """Behave like this within a block."""
        self.set(fault)
        try:
            yield
        finally:
            self.heal()

    # What links ask, in the thread of the traffic --------------------------------------------

    @property
    def fault(self) -> Fault:
        """What happens now to what comes through."""
        return self._fault

    def is_hit(self) -> bool:
        """Tell whether the next reply is one of those that the fault hits."""
        return self._fault.share >= 1.0 or self._random.random() < self._fault.share

    def forget(self, link: Link) -> None:
        """Know that a link is gone."""
        self._links.discard(link)

    # In the thread of the traffic ------------------------------------------------------------

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _accept(self) -> asyncio.Protocol:
        link = Link(self)
        self._links.add(link)
        task = asyncio.get_running_loop().create_task(self._connect(link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return link.client

    async def _connect(self, link: Link) -> None:
        if self._fault.kind is Kind.RESET:
            link.reset()
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.create_connection(lambda: link.server, *self._target)
        except (OSError, TimeoutError):
            link.reset()

    def _turn(self, fault: Fault) -> None:
        self._fault = fault
        for link in list(self._links):
            if fault.kind is Kind.RESET or (link.is_torn and fault.kind is Kind.PASS):
                link.reset()
            else:
                link.resume()

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._reset_all()
