"""The process that floods the webhook: senders that never rest, and what they were answered."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final
from urllib.parse import urlsplit

import uvloop

from loadtests.deliveries import CREDITS, EXPECTED, Deliveries, Delivery, Kind, message
from loadtests.http_client import Disconnected, Pool

_TIMEOUT_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 60.0
_ATTEMPTS: Final = 50
_PAUSE_SECONDS: Final = 0.1


class FloodEnded(Exception):
    """Raised when the flooding process does not do what it is told."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is flooded and how. `rate` is deliveries a second at most; 0: as fast as they can."""

    url: str
    secret: str
    accounts: tuple[str, ...]
    senders: int
    rate: float


@dataclass(slots=True)
class Flooded:
    """What one flood came to. Amounts are microcredits.

    `answers` counts every attempt by kind and status, `stored` the new events that were
    acknowledged, `granted` what the top-ups among them buy, by account.
    """

    seconds: float = 0.0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    granted: Counter[str] = field(default_factory=Counter)
    samples_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Flooder:
    """The process, as its parent sees it. It ends with its parent."""

    def __init__(self, plan: Plan) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, child = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(child, plan), daemon=True)
        self._process.start()
        child.close()

    def begin(self) -> None:
        """Begin to flood; return when every sender has an answer. Raises `FloodEnded`."""
        self._tell(True)

    def end(self) -> Flooded:
        """Stop; return what it came to when all is answered. Raises `FloodEnded`."""
        flooded = self._tell(False)
        assert isinstance(flooded, Flooded)
        return flooded

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_TIMEOUT_SECONDS)

    def _tell(self, is_on: bool) -> Flooded | bool:
        try:
            self._pipe.send(is_on)
            if self._pipe.poll(_ANSWER_SECONDS):
                answer: Flooded | bool = self._pipe.recv()
                return answer
        except (EOFError, OSError) as error:
            raise FloodEnded("the flooding process has ended") from error
        raise FloodEnded(f"the senders were not done within {_ANSWER_SECONDS:.0f} s")


@contextlib.contextmanager
def flooding(flooder: Flooder) -> Iterator[Flooder]:
    """Have the process, at rest; it ends with the block."""
    try:
        yield flooder
    finally:
        flooder.close()


def _serve(pipe: Connection, plan: Plan) -> None:
    deliveries = Deliveries(plan.accounts)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while pipe.recv():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                pipe.send(runner.run(_Flood(plan, deliveries).run(pipe)))


class _Flood:
    """One flood, from the word to begin to the word to end."""

    def __init__(self, plan: Plan, deliveries: Deliveries) -> None:
        self._plan = plan
        self._deliveries = deliveries
        self._result = Flooded()
        self._host = urlsplit(plan.url).netloc
        self._is_ending = False

    async def run(self, pipe: Connection) -> Flooded:
        where = urlsplit(self._plan.url)
        assert where.hostname
        assert where.port
        pool = Pool(where.hostname, where.port, self._plan.senders)
        await pool.open()
        began = time.perf_counter()
        await asyncio.gather(*(self._deliver(pool) for _ in range(self._plan.senders)))
        senders = [asyncio.ensure_future(self._send(pool)) for _ in range(self._plan.senders)]
        pipe.send(True)
        await asyncio.to_thread(pipe.recv)
        self._is_ending = True
        await asyncio.gather(*senders)
        self._result.seconds = time.perf_counter() - began
        pool.close()
        return self._result

    async def _send(self, pool: Pool) -> None:
        due = time.perf_counter()
        while not self._is_ending:
            await self._deliver(pool)
            if self._plan.rate:
                due += self._plan.senders / self._plan.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _deliver(self, pool: Pool) -> None:
        """Deliver one event, again and again until it is answered as it must be, as Stripe does."""
        delivery = self._deliveries.next()
        for _ in range(_ATTEMPTS):
            status = await self._attempt(pool, delivery)
            if status == str(EXPECTED[delivery.kind]):
                self._keep(delivery)
                return
            if status.isdigit() and status != "503":
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        self._result.problems.append(f"a delivery ({delivery.kind}) was answered {status}")

    async def _attempt(self, pool: Pool, delivery: Delivery) -> str:
        began = time.perf_counter()
        try:
            request = message(delivery, self._host, self._plan.secret)
            status = str((await pool.request(request, _TIMEOUT_SECONDS))[0])
            self._result.samples_ms.append((time.perf_counter() - began) * 1000)
        except (Disconnected, TimeoutError) as error:
            status = type(error).__name__
        self._result.answers[delivery.kind.value, status] += 1
        return status

    def _keep(self, delivery: Delivery) -> None:
        if delivery.kind not in (Kind.TOP_UP, Kind.IGNORED):
            return
        self._deliveries.keep(delivery)
        self._result.stored[delivery.kind.value] += 1
        if delivery.kind is Kind.TOP_UP:
            self._result.granted[delivery.account] += CREDITS
