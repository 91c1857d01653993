"""Load in two shapes: at a fixed rate whatever the answers do (open), or in turn (closed).

Open-loop latency counts from the instant at which a request was due, so that a stall is seen by
all requests that would have come in it, not by one (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import selectors
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from loadtests.figures import Latency, percentile
from loadtests.http_client import Disconnected, Pool
from loadtests.receipts import Receipt, Told, Unanswered

TIMEOUT_SECONDS: Final = 5.0
_OPEN_CONNECTIONS: Final = 128
_LEAD_SECONDS: Final = 0.05


@dataclass(slots=True)
class Trial:
    """What one trial measured. `rate` is flows a second, latencies are in milliseconds.

    `sent_late_ms` is the 99th percentile of how late the probe itself was: part of the latencies.
    """

    rate: float = 0.0
    latencies: dict[str, Latency] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    sent_late_ms: float = 0.0


class Session:
    """The calls of one trial: their latencies, and their receipts into `told`."""

    def __init__(self, sidecar: str, accounts: list[str], told: Told, prefix: str) -> None:
        where = urlsplit(sidecar)
        assert where.hostname
        assert where.port
        self._address = (where.hostname, where.port)
        self._host = where.netloc
        self._accounts = accounts
        self._told = told
        self._prefix = prefix
        self._numbers = itertools.count()
        self._pool: Pool | None = None
        self.samples_ms: dict[str, list[float]] = {}
        self.errors: Counter[str] = Counter()

    async def connect(self, connections: int) -> None:
        """Open the connections."""
        self._pool = Pool(*self._address, connections)
        await self._pool.open()

    def close(self) -> None:
        """Close them."""
        assert self._pool
        self._pool.close()

    async def floor(self, due: float) -> None:
        """Ask for /healthz: HTTP without a decision, the least that any call costs."""
        message = f"GET /healthz HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        if await self._exchange(message) is not None:
            self._sample("floor", due)

    async def debit(self, due: float) -> None:
        """Make one debit."""
        if await self._call("debit", self._body(amount=1_000)):
            self._sample("debit", due)

    async def hold_and_settle(self, due: float) -> None:
        """Make one hold and settle it at once. The settle counts from the hold's answer."""
        body = self._body(amount=2_000)
        if not await self._call("hold", body):
            return
        self._sample("hold", due)
        held = time.perf_counter()
        settle = {"account": body["account"], "id": body["id"], "amount": 1_500}
        if await self._call("settle", settle):
            self._sample("settle", held)

    def _body(self, **fields: Any) -> dict[str, Any]:
        number = next(self._numbers)
        account = self._accounts[number % len(self._accounts)]
        return {"account": account, "id": f"{self._prefix}-{number}", **fields}

    def _sample(self, name: str, due: float) -> None:
        self.samples_ms.setdefault(name, []).append((time.perf_counter() - due) * 1000)

    async def _call(self, operation: str, body: dict[str, Any]) -> bool:
        payload = json.dumps(body).encode()
        head = (
            f"POST /v1/{operation} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        answer = await self._exchange(head.encode() + payload)
        if answer is None:
            self._told.add(Unanswered(operation, body))
            return False
        fields = json.loads(answer)
        self._told.add(
            Receipt(body["account"], body["id"], operation, fields["status"],
                    fields.get("charged", 0))
        )  # fmt: skip
        return True

    async def _exchange(self, message: bytes) -> bytes | None:
        assert self._pool
        try:
            status, body = await self._pool.request(message, TIMEOUT_SECONDS)
        except (Disconnected, TimeoutError) as error:
            self.errors[type(error).__name__] += 1
            return None
        if status != 200:
            self.errors[str(status)] += 1
            return None
        return body


Flow = Callable[[Session, float], Awaitable[None]]
"""One flow of a session, due at an instant of `time.perf_counter`."""


def run_open(session: Session, flow: Flow, rate: float, seconds: float) -> Trial:
    """Start `rate` flows a second for `seconds` and wait for the last answer."""
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        return runner.run(_open(session, flow, rate, seconds))


def run_closed(session: Session, flow: Flow, connections: int, seconds: float) -> Trial:
    """Run flows one after another on each of `connections` connections."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_closed(session, flow, connections, seconds))


def _precise_loop() -> asyncio.AbstractEventLoop:
    # epoll and libuv wait in whole milliseconds, longer than an answer takes; select does not.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _open(session: Session, flow: Flow, rate: float, seconds: float) -> Trial:
    await session.connect(_OPEN_CONNECTIONS)
    loop, late_ms = asyncio.get_running_loop(), []
    running: set[asyncio.Task[None]] = set()
    all_started = loop.create_future()
    count = int(rate * seconds)
    # The loop's clock and perf_counter are the same on Linux, but need not be.
    first = loop.time() + _LEAD_SECONDS
    to_perf_counter = time.perf_counter() - loop.time()

    def start(number: int) -> None:
        due = first + number / rate + to_perf_counter
        late_ms.append((time.perf_counter() - due) * 1000)
        task = loop.create_task(_as_coroutine(flow, session, due))
        running.add(task)
        task.add_done_callback(running.discard)
        if number + 1 < count:
            loop.call_at(first + (number + 1) / rate, start, number + 1)
        else:
            all_started.set_result(None)

    loop.call_at(first, start, 0)
    await all_started
    await asyncio.gather(*running)
    return _trial(session, count, time.perf_counter() - first - to_perf_counter, late_ms)


async def _closed(session: Session, flow: Flow, connections: int, seconds: float) -> Trial:
    await session.connect(connections)
    started = time.perf_counter()
    done = await asyncio.gather(
        *(_repeat(session, flow, started + seconds) for _ in range(connections))
    )
    return _trial(session, sum(done), time.perf_counter() - started, [])


async def _repeat(session: Session, flow: Flow, end: float) -> int:
    for count in itertools.count():
        now = time.perf_counter()
        if now >= end:
            return count
        await flow(session, now)
    raise AssertionError("unreachable: the count has no end")


async def _as_coroutine(flow: Flow, session: Session, due: float) -> None:
    await flow(session, due)


def _trial(session: Session, flows: int, seconds: float, late_ms: list[float]) -> Trial:
    session.close()
    return Trial(
        rate=flows / seconds,
        latencies={name: Latency.of(values) for name, values in session.samples_ms.items()},
        errors=session.errors,
        sent_late_ms=percentile(sorted(late_ms), 0.99),
    )
