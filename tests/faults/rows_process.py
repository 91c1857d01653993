"""Faults of processes: killed, stopped, and calls that are lost between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tests.faults.cycle import Cycle
from tests.faults.network import HALF_OPEN, PASS, RESET, STALL, Fault, Kind
from tests.faults.stack import Stack

PAST_THE_LEASE_SECONDS: Final = (5.5, 7.0)
PAST_THE_WAIT_SECONDS: Final = 13.5


@contextlib.contextmanager
def second_worker(stack: Stack) -> Iterator[None]:
    """Let another worker do the same work."""
    stack.workers[1].start()
    stack.workers[1].wait_ready()
    try:
        yield
    finally:
        stack.workers[1].stop()


def lost_replies(cycle: Cycle) -> None:
    """Lose replies everywhere, with two workers, whose connections to Postgres are cut too."""
    stack = cycle.stack
    for proxy in stack.client_proxies:
        proxy.set(cycle.chance.choice(_CLIENT_FAULTS))
    for proxy in stack.redis_proxies:
        proxy.set(Fault(Kind.CUT_REPLIES, share=0.04))
    stack.ledger_proxy.set(Fault(Kind.CUT_REPLIES, share=0.02))
    for _ in range(6):
        cycle.go_on(0.1, 0.5)
        cut_transactions(cycle)
        cycle.chance.choice(stack.client_proxies).set(cycle.chance.choice(_CLIENT_FAULTS))


_CLIENT_FAULTS: Final = (
    Fault(Kind.CUT_REPLIES, share=0.1),
    Fault(Kind.DROP_REPLIES, share=0.03),
    Fault(Kind.DELAY, delay_seconds=0.05),
    HALF_OPEN,
    STALL,
    RESET,
    PASS,
)


def cut_transactions(cycle: Cycle) -> None:
    """End the workers' connections to Postgres, whatever they are at."""
    try:
        with cycle.stack.engine.connect() as connection:
            connection.execute(_CUT)
    except DBAPIError as error:
        cycle.say(f"nothing was cut: {error}")


def killed_sidecar(cycle: Cycle) -> None:
    """`kill -9` of a sidecar, which is started again."""
    sidecar = cycle.chance.choice(cycle.stack.sidecars)
    sidecar.kill()
    cycle.mark()
    cycle.go_on(0.0, 0.5)
    sidecar.start()


def killed_worker(cycle: Cycle) -> None:
    """`kill -9` of the only worker, several times."""
    worker = cycle.stack.workers[0]
    for _ in range(2):
        worker.kill()
        cycle.mark()
        cycle.go_on(0.0, 0.5)
        worker.start()
        worker.wait_ready()
        cycle.go_on(0.0, 0.3)


def stopped_redis(cycle: Cycle) -> None:
    """SIGSTOP of Redis for longer than the lease."""
    cycle.stack.master.pause()
    cycle.go_on(*PAST_THE_LEASE_SECONDS)
    cycle.stack.master.resume()
    cycle.mark()


def stopped_worker(cycle: Cycle) -> None:
    """SIGSTOP of the only worker for longer than the lease."""
    cycle.stack.workers[0].pause()
    cycle.mark()
    cycle.go_on(*PAST_THE_LEASE_SECONDS)
    cycle.stack.workers[0].resume()


def stopped_sidecar(cycle: Cycle) -> None:
    """SIGSTOP of a sidecar for longer than the lease; Redis is lost meanwhile, or not.

    One time in four it is stopped for so long that a worker lets go of it.
    """
    stack = cycle.stack
    sidecar = cycle.chance.choice(stack.sidecars)
    sidecar.pause()
    if cycle.chance.random() < 0.25:
        cycle.go_on(PAST_THE_WAIT_SECONDS)
    else:
        cycle.go_on(*PAST_THE_LEASE_SECONDS)
    if cycle.chance.random() < 0.5:
        stack.master.kill()
        stack.master.start()
        cycle.go_on(0.0, 1.0)
    sidecar.resume()
    cycle.mark()


_CUT: Final = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'credit-sidecar worker'"
)
