"""The probe's own HTTP client: keep-alive, one request at a time on a connection, little code.

A general client spends more time on a request than the sidecar does, and would be what is measured.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Final, cast

_HEADERS_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Disconnected(Exception):
    """Raised when the connection ends before the answer is complete."""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Not checked at run time: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(Disconnected(str(error or "closed by the server")))

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def request(self, message: bytes) -> tuple[int, bytes]:
        """Send a whole request; return status and body. Raises `Disconnected`."""
        if self._transport is None:
            raise Disconnected("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Complete the answer, when all of it is there."""
        received = self._received + data if self._received else data
        head_end = received.find(_HEADERS_END)
        length = _LENGTH.search(received, 0, head_end) if head_end >= 0 else None
        body_at = head_end + len(_HEADERS_END)
        if length is None or len(received) < body_at + int(length[1]):
            self._received = received
            return
        self._received = b""
        assert self._answer, "an answer to nothing"
        # Cancelled when it came too late.
        if not self._answer.done():
            self._answer.set_result((int(received[9:12]), received[body_at:]))

    def close(self) -> None:
        """Close it."""
        if self._transport:
            self._transport.close()


class Pool:
    """Connections to one sidecar. Who finds none free waits in line."""

    def __init__(self, host: str, port: int, size: int) -> None:
        self._address = (host, port)
        self._size = size
        self._free: deque[Connection] = deque()
        self._line: deque[asyncio.Future[Connection]] = deque()

    async def open(self) -> None:
        """Open all connections."""
        for _ in range(self._size):
            self._free.append(await self._connect())

    async def request(self, message: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        """Send a request on the next free connection. Raises `Disconnected` and `TimeoutError`."""
        connection = self._free.pop() if self._free else await self._wait()
        try:
            async with asyncio.timeout(timeout_seconds):
                if not connection.is_open:
                    connection = await self._connect()
                return await connection.request(message)
        except TimeoutError:
            # Its answer may still come: on a connection of its own it cannot be taken for another.
            connection.close()
            raise
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close the connections; none may be in use."""
        for connection in self._free:
            connection.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, *self._address)
        except OSError as error:
            raise Disconnected(str(error)) from error
        return connection

    async def _wait(self) -> Connection:
        place: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        return await place

    def _give_back(self, connection: Connection) -> None:
        if self._line:
            self._line.popleft().set_result(connection)
        else:
            self._free.append(connection)
