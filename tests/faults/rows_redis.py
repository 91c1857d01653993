"""Faults of one Redis: it dies, forgets, goes back in time, or cannot be reached."""

from __future__ import annotations

from typing import Final

from persistence.recovery import rebuild
from sidecar import keys
from tests.faults.cycle import Cycle
from tests.faults.network import DROP_REPLIES, HALF_OPEN, RESET, STALL, Fault, Kind

_SWEEP_KEY, _STREAM_KEY = 5, 8  # of an account's keys, those that are the shard's

_NETWORKS: Final = (
    STALL,
    HALF_OPEN,
    RESET,
    DROP_REPLIES,
    Fault(Kind.DELAY, delay_seconds=0.2),
    Fault(Kind.CUT_REPLIES, share=0.3),
)


def killed_redis(cycle: Cycle) -> None:
    """`kill -9` of Redis, which is started again with what its file has."""
    cycle.stack.master.kill()
    cycle.mark()
    cycle.stack.master.start()


def power_loss(cycle: Cycle) -> None:
    """The end of the append-only file is gone, as after a loss of power: up to two seconds."""
    master = cycle.stack.master
    least = master.file_bytes()
    cycle.go_on(0.1, 2.0)
    master.kill()
    cycle.mark()
    cycle.notes["bytes cut off"] = master.truncate(least, cycle.chance)
    master.start()


def old_backup(cycle: Cycle) -> None:
    """Redis is restored from a copy that is some seconds old."""
    master, place = cycle.stack.master, cycle.workspace / "backup"
    master.back_up(place)
    cycle.go_on(1.0, 3.0)
    master.kill()
    cycle.mark()
    master.restore(place)
    master.start()


def flushed(cycle: Cycle) -> None:
    """FLUSHALL."""
    with cycle.stack.master.client() as client:
        client.flushall()
    cycle.mark()


def deleted_account(cycle: Cycle) -> None:
    """The keys of one account are deleted, or only its hash."""
    account = cycle.chance.choice(cycle.accounts).name
    shard = keys.shard_of(account, cycle.stack.shape.shards)
    names = keys.account_keys(account, shard, 0)
    own = [name for at, name in enumerate(names) if at not in (_SWEEP_KEY, _STREAM_KEY)]
    with cycle.stack.master.client() as client:
        client.delete(*(own if cycle.chance.random() < 0.5 else own[:1]))
    cycle.mark()


def rebuilt(cycle: Cycle) -> None:
    """An operator has some shards rebuilt, or all."""
    shards = range(cycle.stack.shape.shards)
    some = cycle.chance.sample(shards, cycle.chance.randint(1, len(shards)))
    rebuild(cycle.stack.engine, some)
    cycle.mark()


def redis_down(cycle: Cycle) -> None:
    """Redis is away for some seconds, and comes back with what it had."""
    cycle.stack.master.kill()
    cycle.go_on(2.0, 4.0)
    cycle.stack.master.start()
    cycle.mark()


def partitioned(cycle: Cycle) -> None:
    """A sidecar, the worker, or all are cut off from Redis, in one of many ways."""
    stack = cycle.stack
    everything = [*stack.redis_proxies, stack.ledger_proxy]
    cut = cycle.chance.choice([everything, [cycle.chance.choice(everything)]])
    fault = cycle.chance.choice(_NETWORKS)
    for proxy in cut:
        proxy.set(fault)
    cycle.go_on(0.5, 6.0)
    for proxy in cut:
        proxy.heal()
    cycle.mark()
