"""What must hold after a load: every client was told exactly what the ledger says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx

from loadtests.ledger import Truth
from loadtests.receipts import Key, Told


@dataclass(frozen=True, slots=True)
class Balance:
    """What one sidecar says an account has, in microcredits."""

    sidecar: str
    account: str
    available: int
    held: int


def compare(told: Told, truth: Truth) -> Iterator[str]:
    """Yield a sentence for every difference between receipts and ledger."""
    yield from told.findings
    yield from (f"never answered: {call.operation} {call.body}" for call in told.unanswered)
    yield from _compare_ids("settle", told.settled, truth.settled)
    yield from _compare_ids("debit", told.debited, truth.debited)
    yield from _compare_ids("refund", told.refunded, truth.refunded)
    yield from _compare_ends(told.ended, truth.finals)
    yield from _compare_sums("usage", told.nets(), truth.usage)
    yield from _compare_sums("generation spent", told.nets(), truth.spent)


def compare_balances(
    told: Told, truth: Truth, balances: Iterable[Balance], *, may_overspend: bool
) -> Iterator[str]:
    """Yield a sentence for every account whose credits in Redis are not what must be left.

    Conservation (I1): granted = available + held + charged - refunded; no overspend (I2).
    """
    nets = told.nets()
    for balance in balances:
        left = truth.granted[balance.account] - nets.get(balance.account, 0)
        if balance.available + balance.held != left:
            yield f"{balance}: available + held must be {left}"
        if balance.available < 0 and not may_overspend:
            yield f"{balance}: overspent"


def read_balances(sidecars: Sequence[str], accounts: Iterable[str]) -> Iterator[Balance]:
    """Ask every sidecar for every account's balance."""
    with httpx.Client(trust_env=False, timeout=10) as client:
        for account in accounts:
            for sidecar in sidecars:
                answer = client.get(f"{sidecar}/v1/balance", params={"account": account})
                fields = answer.raise_for_status().json()
                yield Balance(sidecar, account, fields["available"], fields["held"])


def _compare_ids(
    operation: str, told: Mapping[Key, int], truth: Mapping[Key, int]
) -> Iterator[str]:
    for key in told.keys() | truth.keys():
        if told.get(key) != truth.get(key):
            yield (
                f"{operation} {key[1]} of {key[0]}: acknowledged {told.get(key)}, "
                f"ledger {truth.get(key)}"
            )


def _compare_ends(ended: set[Key], finals: Mapping[Key, int]) -> Iterator[str]:
    for account, id in ended | finals.keys():
        count, is_ended = finals.get((account, id), 0), (account, id) in ended
        if count != int(is_ended):
            yield f"hold {id} of {account} has {count} final settles, acknowledged: {is_ended}"


def _compare_sums(what: str, told: Mapping[str, int], truth: Mapping[str, int]) -> Iterator[str]:
    for account in told.keys() | truth.keys():
        acknowledged, posted = told.get(account, 0), truth.get(account, 0)
        if acknowledged != posted:
            yield f"{account}: acknowledged {acknowledged}, {what} {posted}"
