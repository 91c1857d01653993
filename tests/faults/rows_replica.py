"""Faults of a Redis with a replica: fail-over to one that lags, split brain, demotion."""

from __future__ import annotations

from tests.faults.cycle import Cycle
from tests.faults.network import HALF_OPEN, PASS


def stale_replica(cycle: Cycle) -> None:
    """The master dies, and a replica that lags behind takes its place."""
    stack = cycle.stack
    begin_to_lag(cycle)
    stack.master.kill()
    cycle.mark()
    stack.spare.lead()
    stack.move_to(stack.spare)
    stack.swap_redis()
    end_spare(cycle)


def split_brain(cycle: Cycle) -> None:
    """A lagging replica is promoted; one sidecar still talks to the old master for a while."""
    stack = cycle.stack
    begin_to_lag(cycle)
    stack.spare.lead()
    behind = cycle.chance.randrange(len(stack.redis_proxies))
    others = [proxy for at, proxy in enumerate(stack.redis_proxies) if at != behind]
    for proxy in (stack.ledger_proxy, *others):
        proxy.move(stack.spare.address)
    cycle.go_on(1.0, 3.0)
    stack.redis_proxies[behind].move(stack.spare.address)
    cycle.mark()
    stack.swap_redis()
    end_spare(cycle)


def demoted(cycle: Cycle) -> None:
    """The master becomes the replica of one that lags, and then the master again."""
    stack = cycle.stack
    begin_to_lag(cycle)
    stack.spare.lead()
    stack.master.follow(stack.spare.address)
    cycle.wait_until(stack.master.is_following, "the old master's following")
    cycle.go_on(0.0, 1.0)
    stack.master.lead()
    cycle.mark()
    end_spare(cycle)


def begin_to_lag(cycle: Cycle) -> None:
    """Start a replica, let it catch up, and cut it off for a while under load."""
    stack = cycle.stack
    stack.replica_proxy.set(PASS)
    stack.replica_proxy.move(stack.master.address)
    with stack.master.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    stack.spare.start()
    stack.spare.follow(("127.0.0.1", stack.replica_proxy.port))
    cycle.wait_until(stack.spare.is_following, "the replica's catching up")
    cycle.go_on(0.2, 0.6)
    stack.replica_proxy.set(HALF_OPEN)
    cycle.go_on(0.3, 1.5)


def end_spare(cycle: Cycle) -> None:
    """Kill the Redis that is not needed any more, and delete what it has."""
    cycle.stack.spare.kill()
    cycle.stack.spare.wipe()
