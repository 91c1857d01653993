"""Allowances: what the paid periods of a subscription have given, and how they end.

The grants of an item form a chain, period after period. A new period's first grant ends what is
left of all earlier ones of its item, save the plan's `rollover_cap` (as the plan states it, not
times the quantity), which goes on to the new period's expiry. When an older period comes late, it
is granted, and what its successors did to the chain is done again, in their order: a cap of caps is
the smallest of them, so the end is that of the right order. What would have expired in the right
order, for its successor was paid too late to save it, is not granted at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from persistence.grants import GrantRequest, add_grant
from persistence.plan_tables import allowances
from persistence.rolling import end_grants, roll_grants
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.periods import Period
from sidecar.domain import MAX_AMOUNT, Category


@dataclass(slots=True)
class Allowance:
    """One row, as it is in this transaction."""

    subscription_item: str
    starts_ms: int
    account: str
    subscription: str
    stripe_price: str
    quantity: int
    ends_ms: int
    expires_ms: int
    due_ms: int
    rollover_cap: int
    target: int
    granted: int
    postings: int
    is_trial: bool
    ended_ms: int | None
    invoice: str

    def grant_id(self, posting_no: int) -> str:
        """Return the id of the grant that a posting made, the first is number 1."""
        return f"{self.subscription_item}:{self.starts_ms}:{posting_no}"

    @property
    def grant_ids(self) -> list[str]:
        """The grants that were made of it."""
        return [self.grant_id(number) for number in range(1, self.postings + 1)]


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Allowance))


def record(
    c: Connection, subscription: str, periods: Iterable[Period], now_ms: int
) -> list[Allowance]:
    """Write what the periods of a subscription are worth now; return all its rows, in order.

    What was granted is never taken back: a target does not fall below it.
    """
    known = {(one.subscription_item, one.starts_ms): one for one in allowances_of(c, subscription)}
    changed = []
    left_over = dict(known)
    for period in periods:
        place = (period.item, period.starts_ms)
        before = left_over.pop(place, None)
        known[place] = _recorded(subscription, period, before)
        if known[place] != before:
            changed.append(known[place])
    for one in left_over.values():
        if one.target != one.granted:
            one.target = one.granted
            changed.append(one)
    _write(c, changed, now_ms)
    return [known[place] for place in sorted(known)]


def allowances_of(c: Connection, subscription: str) -> list[Allowance]:
    """Return the allowances of a subscription, by item and period."""
    query = select(*(allowances.c[name] for name in _FIELDS)).where(
        allowances.c.subscription == subscription
    )
    ordered = query.order_by(allowances.c.subscription_item, allowances.c.starts_ms)
    return [Allowance(**row) for row in c.execute(ordered).mappings()]


def give(c: Connection, known: Sequence[Allowance], now_ms: int) -> None:
    """Grant what is due and was not granted yet, oldest first.

    Raises `GrantConflict` and `TotalExceeded`.
    """
    for _, found in groupby(known, key=lambda one: one.subscription_item):
        chain = list(found)
        for place, one in enumerate(chain):
            if one.target == one.granted or one.due_ms > now_ms:
                continue
            expires_ms = _expiry(chain[place:], now_ms)
            if expires_ms is None:
                _mark_ended(c, [one], now_ms)
                continue
            is_first = one.granted == 0
            _post(c, one, expires_ms, now_ms)
            for later in range(place if is_first else place + 1, len(chain)):
                if chain[later].granted > 0:
                    _roll(c, chain, later, now_ms)


def end(c: Connection, known: Sequence[Allowance], now_ms: int, *, for_good: bool) -> None:
    """End all that was granted, at once; `for_good`: what was not granted never will be."""
    living = [one for one in known if one.granted > 0 and one.ended_ms is None]
    for account, ids in _by_account(living).items():
        end_grants(c, account, ids)
    _mark_ended(c, known if for_good else living, now_ms)


def _expiry(chain: Sequence[Allowance], now_ms: int) -> int | None:
    """Return when the first period of a chain ends, its rest carried over to the periods after it.

    None when it is over: it expired before the next one was due.
    """
    expires_ms = chain[0].expires_ms
    for later in chain[1:]:
        if later.target > 0 and later.due_ms <= now_ms:
            if later.due_ms >= expires_ms:
                return None
            expires_ms = later.expires_ms
    return expires_ms if expires_ms > now_ms else None


def _recorded(subscription: str, period: Period, before: Allowance | None) -> Allowance:
    if period.target > MAX_AMOUNT:
        raise EventNotUnderstood(f"an allowance of {period.target} is more than there can be")
    return Allowance(
        subscription_item=period.item,
        starts_ms=period.starts_ms,
        account=period.account if before is None else before.account,
        subscription=subscription,
        stripe_price=period.price,
        quantity=period.quantity,
        ends_ms=period.ends_ms,
        expires_ms=period.expires_ms,
        due_ms=period.due_ms,
        rollover_cap=period.rollover_cap,
        target=max(period.target, 0 if before is None else before.granted),
        granted=0 if before is None else before.granted,
        postings=0 if before is None else before.postings,
        is_trial=period.is_trial,
        ended_ms=None if before is None else before.ended_ms,
        invoice=period.invoice,
    )


def _post(c: Connection, one: Allowance, expires_ms: int, now_ms: int) -> None:
    request = GrantRequest(
        account=one.account,
        id=one.grant_id(one.postings + 1),
        amount=one.target - one.granted,
        category=Category.ALLOWANCE,
        expires_at_ms=expires_ms,
        reference=one.invoice,
    )
    add_grant(c, request)
    one.granted, one.postings, one.ended_ms = one.target, one.postings + 1, None
    _write(c, [one], now_ms)


def _roll(c: Connection, chain: Sequence[Allowance], place: int, now_ms: int) -> None:
    """Let a period end what is left of those before it, save what it may carry over."""
    new = chain[place]
    living = [one for one in chain[:place] if one.granted > 0 and one.ended_ms is None]
    for account, ids in _by_account(living).items():
        if account != new.account:
            end_grants(c, account, ids)
            continue
        roll_grants(
            c,
            account,
            ids,
            group=f"{new.subscription_item}:{new.starts_ms}",
            keep=new.rollover_cap,
            expires_at_ms=_expiry(chain[place:], now_ms) or new.expires_ms,
        )
    if new.rollover_cap == 0:
        _mark_ended(c, living, now_ms)


def _by_account(some: Iterable[Allowance]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in some:
        found.setdefault(one.account, []).extend(one.grant_ids)
    return found


def _mark_ended(c: Connection, some: Sequence[Allowance], now_ms: int) -> None:
    ending = [one for one in some if one.ended_ms is None]
    for one in ending:
        one.ended_ms = now_ms
    _write(c, ending, now_ms)


def _write(c: Connection, some: Sequence[Allowance], now_ms: int) -> None:
    if not some:
        return
    times = {"created_ms": now_ms, "updated_ms": now_ms}
    new = insert(allowances).values([dataclasses.asdict(one) | times for one in some])
    changes = {name: new.excluded[name] for name in (*_FIELDS, "updated_ms")}
    keys = [allowances.c.subscription_item, allowances.c.starts_ms]
    c.execute(new.on_conflict_do_update(index_elements=keys, set_=changes))
