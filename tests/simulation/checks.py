"""What must be true when everything is well again."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.ledger import Account, Ledger
from tests.simulation.redis_state import Server
from tests.simulation.sidecar import Sidecar
from tests.simulation.truth import Truth
from tests.simulation.values import Violation


def unfinished(
    ledger: Ledger, server: Server, sidecars: Iterable[Sidecar], *, is_fenced: bool
) -> str:
    """Return what is not well yet, or nothing."""
    for number, shard in enumerate(ledger.shards):
        fence = server.data.fences.get(number)
        is_open = shard.is_whole and (shard.fits(fence) or not is_fenced)
        if not is_open or (fence and fence.is_draining):
            return f"shard {number} is {shard}, its fence {fence}"
        if server.data.added(number, shard.epoch) != shard.flushed:
            return f"shard {number} is not flushed"
    for name, account in enumerate(ledger.accounts):
        there = server.data.accounts.get(name)
        is_sent = account.present.applied == len(account.present.refills)
        if not (ledger.is_present(account) and is_sent and there and there.gen == account.gen):
            return f"account {name} is {account.present}, in Redis {there}"
    for sidecar in sidecars:
        is_ready = len(sidecar.ready) == len(ledger.shards) and not len(sidecar.shelf)
        if sidecar.is_up and not is_ready:
            return f"{sidecar.name} is ready for {sidecar.ready}, keeps {len(sidecar.shelf)}"
    return ""


def check(ledger: Ledger, server: Server, truth: Truth, destroyed: set[str]) -> None:
    """Raise `Violation` unless every promise was kept."""
    letters = {event: why for event, why in ledger.letters.items() if event.key not in ledger.usage}
    if letters:
        raise Violation("dead letters", str(letters))
    check_nothing_is_lost(ledger, truth, destroyed)
    for name, account in enumerate(ledger.accounts):
        truth.check(name)
        _check_account(ledger, name, account, truth)
        _check_redis(server, name, account)


def check_nothing_is_lost(ledger: Ledger, truth: Truth, destroyed: set[str]) -> None:
    """Raise `Violation` unless the ledger has what was acknowledged, but for destroyed disks."""
    for key, amount in truth.acknowledged.items():
        event = ledger.usage.get(key)
        if event is None and truth.by[key] <= destroyed:
            continue
        if event is None:
            raise Violation("lost", f"{key} of {amount}, acknowledged by {truth.by[key]}")
        if event.amount != amount:
            raise Violation("ended twice", f"{key} of {amount} is {event} in the ledger")
    truth.written_off = {k: a for k, a in truth.acknowledged.items() if k not in ledger.usage}


def _check_account(ledger: Ledger, name: int, account: Account, truth: Truth) -> None:
    spent = sum(e.amount for e in ledger.usage.values() if e[0] == name and e[3] != "take")
    if account.spent != spent:
        raise Violation("wrong sum", f"account {name} spent {account.spent}, its usage is {spent}")
    lent = sum(generation.balance for generation in account.gens.values())
    total = account.available + lent + account.spent + account.suspended
    if total != truth.granted[name]:
        raise Violation("unbalanced", f"account {name} has {total} of {truth.granted[name]}")
    for number, generation in account.gens.items():
        if number != account.gen and (generation.balance or not generation.is_closed):
            raise Violation("residue", f"account {name}, {number}: {generation}")


def _check_redis(server: Server, name: int, account: Account) -> None:
    there = server.data.accounts[name]
    held = sum(hold.amount for hold in there.holds.values())
    if there.held != held:
        raise Violation("drift", f"account {name} holds {there.held}, its holds are {held}")
    if there.available + there.held != account.present.balance:
        detail = f"account {name} has {there} in Redis, the ledger lent {account.present}"
        raise Violation("drift", detail)
