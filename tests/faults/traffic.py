"""The thread in which connections live: proxies and clients go on while a scenario waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import uvloop

T = TypeVar("T")

_CALL_SECONDS: Final = 60.0


class Traffic:
    """An event loop in a thread of its own. Every method may be called from any other thread."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = _CALL_SECONDS) -> T:
        """Run a coroutine in the thread and return what it returns. Raises `TimeoutError`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def call(self, work: Callable[[], T]) -> T:
        """Call a function in the thread and return what it returns."""

        async def call() -> T:
            return work()

        return self.run(call())

    def stop(self) -> None:
        """End everything that runs there, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_cancel_all())
        finally:
            self._loop.close()


@contextlib.contextmanager
def traffic() -> Iterator[Traffic]:
    """Yield a running thread."""
    made = Traffic()
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
