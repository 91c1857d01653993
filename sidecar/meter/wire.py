"""One connection to one Redis process, which is never exchanged for another behind our back.

A pool may hand out, and a client may reconnect to, another process than the one that was asked
who it is. What must be the same process goes over one `Wire`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError

Command = Sequence[str | int | bytes]

FAULTS: Final = (RedisError, OSError, RuntimeError)
"""What a call to Redis may raise. (uvloop raises `RuntimeError` for a write to a connection whose
end it has seen and not told of yet.)"""


class Wire:
    """A connection, made when it is first needed; after any failure it is of no more use."""

    def __init__(self, client: Redis) -> None:
        make = cast(Callable[[], AbstractConnection], client.connection_pool.make_connection)
        self._connection = make()
        self._is_begun = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once, and return a reply or a `ResponseError` for each.

        Raises `FAULTS`: then close it.
        """
        if not self._is_begun:
            await cast(Callable[[], Awaitable[None]], self._connection.connect)()
            self._is_begun = True
        if not self._connection.is_connected:
            raise Disconnected("The connection to Redis was lost.")
        await self._connection.send_packed_command(
            self._connection.pack_commands(commands), check_health=False
        )
        return [await self._read() for _ in commands]

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response(disconnect_on_error=True)
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close the connection at once."""
        await self._connection.disconnect(nowait=True)
