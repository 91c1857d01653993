"""What operators see of an account's plans."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, select

from persistence.plan_tables import stripe_subscriptions as subscriptions
from sidecar.billing.allowances import Allowance, allowances_of

_SHOWN: Final = (
    "subscription",
    "customer",
    "status",
    "state",
    "items",
    "grace_until_ms",
    "is_ending",
)


def subscriptions_of(c: Connection, account: str) -> list[dict[str, Any]]:
    """Return the subscriptions of an account, newest first, each with its allowances, newest first.

    Amounts are microcredits. `granted` less than `target`: not due yet, or the plan is suspended.
    """
    query = select(subscriptions).where(subscriptions.c.account == account)
    ordered = query.order_by(subscriptions.c.created_ms.desc(), subscriptions.c.subscription)
    return [
        {name: row[name] for name in _SHOWN}
        | {"allowances": [_allowance(one) for one in _newest_first(c, row["subscription"])]}
        for row in c.execute(ordered).mappings().all()
    ]


def _newest_first(c: Connection, subscription: str) -> list[Allowance]:
    return sorted(allowances_of(c, subscription), key=lambda one: -one.starts_ms)


def _allowance(one: Allowance) -> dict[str, Any]:
    return {
        "subscription_item": one.subscription_item,
        "stripe_price": one.stripe_price,
        "quantity": one.quantity,
        "starts_ms": one.starts_ms,
        "ends_ms": one.ends_ms,
        "expires_ms": one.expires_ms,
        "target": one.target,
        "granted": one.granted,
        "is_trial": one.is_trial,
        "ended_ms": one.ended_ms,
        "invoice": one.invoice,
    }
