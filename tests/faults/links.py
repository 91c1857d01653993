"""One connection through a proxy: two ends, and what is on its way between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from tests.faults.network import Fault, Kind

_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """What a link asks of its proxy."""

    @property
    def fault(self) -> Fault:
        """What happens now to what comes through."""

    def is_hit(self) -> bool:
        """Tell whether the next reply is one of those that the fault hits."""

    def forget(self, link: Link) -> None:
        """Know that a link is gone."""


class End(asyncio.Protocol):
    """One side of a link. `outbox` is what is still to be written to it, and when."""

    def __init__(self, on_data: Callable[[End, bytes], None], on_lost: Callable[[End], None]):
        self._on_data = on_data
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outbox: deque[tuple[float, bytes]] = deque()
        self._is_ending = False
        self.is_held = False
        self.is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write what came before."""
        # Not checked at run time: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self.is_gone:
            self._abort()
        else:
            self.pump()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._on_data(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the link."""
        self._transport = None
        if not self.is_gone:
            self.is_gone = True
            self._on_lost(self)

    def send(self, data: bytes, delay_seconds: float = 0.0) -> None:
        """Write something, now or later, after all that came before it."""
        self._outbox.append((asyncio.get_running_loop().time() + delay_seconds, data))
        self.pump()

    def end(self) -> None:
        """Close when everything is written."""
        self._is_ending = True
        self.pump()

    def reset(self) -> None:
        """Close at once, so that the other side gets a reset rather than an end."""
        self.is_gone = True
        self._outbox.clear()
        self._abort()

    def pump(self) -> None:
        """Write what is due."""
        if self._transport is None or self.is_held:
            return
        loop = asyncio.get_running_loop()
        while self._outbox and self._outbox[0][0] <= loop.time():
            self._transport.write(self._outbox.popleft()[1])
        if self._outbox and self._timer is None:
            self._timer = loop.call_at(self._outbox[0][0], self._on_timer)
        elif not self._outbox and self._is_ending:
            self._transport.close()

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()

    def _abort(self) -> None:
        if self._transport is None:
            return
        opened = self._transport.get_extra_info("socket")
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()


class Link:
    """One connection. `is_torn`: something that was on its way vanished; it must not go on."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.client: Final = End(self._carry, self._lost)
        self.server: Final = End(self._carry, self._lost)
        self.is_torn = False
        self.resume()

    def reset(self) -> None:
        """Reset both ends."""
        self.client.reset()
        self.server.reset()
        self._owner.forget(self)

    def resume(self) -> None:
        """Behave as the proxy does now."""
        is_held = self._owner.fault.kind is Kind.STALL
        for end in (self.client, self.server):
            end.is_held = is_held
            end.pump()

    def _carry(self, end: End, data: bytes) -> None:
        is_reply = end is self.server
        other = self.client if is_reply else self.server
        fault = self._owner.fault
        if fault.kind is Kind.CUT_REPLIES and is_reply and self._owner.is_hit():
            self.reset()
            return
        if fault.kind is Kind.HALF_OPEN or (self.is_torn and is_reply):
            self.is_torn = True
            return
        if fault.kind is Kind.DROP_REPLIES and is_reply and self._owner.is_hit():
            self.is_torn = True
            return
        other.send(data, fault.delay_seconds if fault.kind is Kind.DELAY else 0.0)

    def _lost(self, end: End) -> None:
        other = self.client if end is self.server else self.server
        if other.is_gone:
            self._owner.forget(self)
        elif self._owner.fault.is_silent:
            self.is_torn = True
        else:
            other.end()
