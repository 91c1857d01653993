"""A careful client: it sends a call again under its id until it knows what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtests.http_client import Connection, Disconnected
from tests.faults.history import NO_ANSWER, RETRIED_HTTP, Attempt, Call, History

_TIMEOUT_SECONDS: Final = 1.5
_HANG_UP_SECONDS: Final = 0.005
_FIRST_PAUSE_SECONDS: Final = 0.03
_LONGEST_PAUSE_SECONDS: Final = 0.25
_NOT_HERE: Final = frozenset({"hold_not_found"})


class GaveUp(Exception):
    """Raised when a call got no answer for longer than the client is patient."""


class Refused(Exception):
    """Raised when a call was refused; the attempt says why."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt.code)
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Manners:
    """How a client behaves: shares of its calls, and how long it tries.

    `elsewhere`: of the attempts, sent through another sidecar than its own. `repeats`: of the
    calls, sent again after the answer. `doubles`: sent to two sidecars at once. `hang_ups`: sent
    once before, without waiting for the answer. `is_faithful`: settles all go to the
    sidecar that granted the hold. `plain_ids`: with ids that are no UUIDv7, for which calls may be
    done twice when Redis is lost.
    """

    elsewhere: float = 0.15
    repeats: float = 0.08
    doubles: float = 0.03
    hang_ups: float = 0.03
    patience_seconds: float = 30.0
    is_faithful: bool = False
    plain_ids: float = 0.0


ORDINARY: Final = Manners(plain_ids=0.3)
FAITHFUL: Final = Manners(is_faithful=True)


class Transport:
    """Connections to the sidecars, one request at a time on each."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._free: list[list[Connection]] = [[] for _ in ports]

    @property
    def sidecars(self) -> int:
        """How many there are."""
        return len(self._ports)

    async def send(self, sidecar: int, operation: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Send a call; return status and body. Raises `Disconnected` and `TimeoutError`."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                connection = await self._connection(sidecar)
                answer = await connection.request(_message(operation, body))
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._free[sidecar].append(connection)
        return answer

    async def hang_up(self, sidecar: int, operation: str, body: dict[str, Any]) -> None:
        """Send a call and close the connection without waiting for the answer."""
        connection = await self._connection(sidecar)
        try:
            async with asyncio.timeout(_HANG_UP_SECONDS):
                await connection.request(_message(operation, body))
        except (Disconnected, TimeoutError):
            pass
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connections in self._free:
            for connection in connections:
                connection.close()
            connections.clear()

    async def _connection(self, sidecar: int) -> Connection:
        free = self._free[sidecar]
        while free:
            connection = free.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(Connection, "127.0.0.1", self._ports[sidecar])
        except OSError as error:
            raise Disconnected(str(error)) from error
        return made


class Client:
    """Makes calls and keeps the history of them."""

    def __init__(
        self,
        transport: Transport,
        history: History,
        manners: Manners,
        chance: random.Random,
        hurry: asyncio.Event,
    ) -> None:
        self._transport = transport
        self._history = history
        self._manners = manners
        self._chance = chance
        self._hurry = hurry

    async def call(self, operation: str, body: dict[str, Any], home: int) -> Attempt:
        """Make a call until it is acknowledged; return the answer that counts.

        Raises `Refused` and `GaveUp`.
        """
        call = self._history.begin(body["account"], operation, body, home)
        if self._is_chosen(self._manners.hang_ups):
            await self._hang_up(call)
        if self._is_chosen(self._manners.doubles) and not self._is_bound(call):
            both = (self._attempt(call, sidecar) for sidecar in range(self._transport.sidecars))
            await asyncio.gather(*both)
        attempt = call.done or await self._retried(call)
        if self._is_chosen(self._manners.repeats) and not self._is_bound(call):
            await self._attempt(call, self._other(home))
        done = call.done
        if done is None:
            raise Refused(attempt)
        return done

    async def pause(self, seconds: float) -> None:
        """Wait, unless it is time to come to an end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _retried(self, call: Call) -> Attempt:
        deadline = time.monotonic() + self._manners.patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            attempt = await self._attempt(call, self._sidecar_for(call))
            if self._is_final(call, attempt):
                return attempt
            if time.monotonic() > deadline:
                raise GaveUp(str(call))
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _is_final(self, call: Call, attempt: Attempt) -> bool:
        if attempt.http in RETRIED_HTTP:
            return False
        # Only the sidecar that granted a hold knows it for sure.
        return attempt.sidecar == call.home or attempt.code not in _NOT_HERE

    def _sidecar_for(self, call: Call) -> int:
        if self._is_chosen(self._manners.elsewhere) and not self._is_bound(call):
            return self._other(call.home)
        return call.home

    def _is_bound(self, call: Call) -> bool:
        return self._manners.is_faithful and call.operation == "settle"

    def _other(self, home: int) -> int:
        others = [number for number in range(self._transport.sidecars) if number != home]
        return self._chance.choice(others) if others else home

    async def _attempt(self, call: Call, sidecar: int) -> Attempt:
        attempt = self._history.attempt(call, sidecar, time.monotonic())
        try:
            http, body = await self._transport.send(sidecar, call.operation, call.body)
            attempt.fields = json.loads(body)
            attempt.http = http
        except (Disconnected, TimeoutError) as error:
            attempt.fields = {"error": f"{type(error).__name__} {error}".strip()}
            attempt.http = NO_ANSWER
        finally:
            attempt.answered = time.monotonic()
            self._history.write(call, attempt)
        return attempt

    async def _hang_up(self, call: Call) -> None:
        attempt = self._history.attempt(call, call.home, time.monotonic(), is_noise=True)
        try:
            await self._transport.hang_up(call.home, call.operation, call.body)
        except Disconnected:
            pass
        finally:
            attempt.fields = {"error": "hung up"}
            attempt.answered = time.monotonic()
            self._history.write(call, attempt)

    def _is_chosen(self, share: float) -> bool:
        return self._chance.random() < share


def _message(operation: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/{operation} HTTP/1.1\r\nHost: sidecar\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload
