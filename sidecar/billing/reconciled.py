"""What the reconciler compares: each kind of Stripe's objects with our rows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from persistence.money_tables import stripe_disputes, stripe_fraud_warnings, stripe_refunds
from persistence.plan_tables import stripe_invoices, stripe_subscriptions
from persistence.stripe_tables import stripe_payments
from sidecar.billing.stripe_api import Object
from sidecar.billing.topups import is_top_up

_OVER: Final = ("canceled", "incomplete_expired")

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind of objects: where they are listed, our table of them, and when the two agree.

    `event_type` is the event that is made of one that differs.
    """

    path: str
    event_type: str
    table: Any
    column: str
    is_of_interest: Callable[[Object], bool]
    agrees: Callable[[Object, Facts], bool]
    parameters: Mapping[str, Any]

    def known(self, c: Connection, ids: Sequence[str]) -> dict[str, Facts]:
        """Return our rows of some objects, by their ids."""
        query = select(self.table).where(self.table.c[self.column].in_(ids))
        return {row[self.column]: dict(row) for row in c.execute(query).mappings()}

    def is_as_known(self, thing: Object, facts: Facts | None) -> bool:
        """Tell whether our row says what Stripe says."""
        return facts is not None and self.agrees(thing, facts)


def known_subscriptions(c: Connection) -> dict[str, Facts]:
    """Return the subscriptions that are not over, by their ids."""
    query = select(stripe_subscriptions).where(stripe_subscriptions.c.status.not_in(_OVER))
    return {row["subscription"]: dict(row) for row in c.execute(query).mappings()}


def is_as_known(subscription: Object, facts: Facts) -> bool:
    """Tell whether a subscription is in the state, with the items, that our row says."""
    items = {
        (item["id"], item["price"]["id"], item.get("quantity") or 0, item["current_period_start"])
        for item in subscription["items"]["data"]
    }
    known = {
        (item["item"], item["price"], item["quantity"], item["starts_ms"] // 1000)
        for item in facts["items"]
    }
    return subscription["status"] == facts["status"] and items == known


def _always(_: Object) -> bool:
    return True


def _same_status(thing: Object, facts: Facts) -> bool:
    return bool(thing.get("status") == facts["status"])


def _is_of_subscription(invoice: Object) -> bool:
    parent = invoice.get("parent")
    return isinstance(parent, dict) and parent.get("type") == "subscription_details"


COMPARISONS: Final = (
    Comparison(
        "/v1/payment_intents",
        "payment_intent.succeeded",
        stripe_payments,
        "payment_intent",
        lambda payment: payment.get("status") == "succeeded" and is_top_up(payment),
        lambda _, facts: bool(facts["is_paid"]),
        {},
    ),
    Comparison(
        "/v1/refunds", "refund.updated", stripe_refunds, "refund", _always, _same_status, {}
    ),
    Comparison(
        "/v1/disputes",
        "charge.dispute.updated",
        stripe_disputes,
        "dispute",
        _always,
        _same_status,
        {},
    ),
    Comparison(
        "/v1/radar/early_fraud_warnings",
        "radar.early_fraud_warning.created",
        stripe_fraud_warnings,
        "warning",
        _always,
        lambda *_: True,
        {},
    ),
    Comparison(
        "/v1/subscriptions",
        "customer.subscription.updated",
        stripe_subscriptions,
        "subscription",
        _always,
        is_as_known,
        {"status": "all"},
    ),
    Comparison(
        "/v1/invoices",
        "invoice.paid",
        stripe_invoices,
        "invoice",
        _is_of_subscription,
        lambda _, facts: bool(facts["is_paid"]),
        {"status": "paid"},
    ),
)
"""In the order in which they are looked at: payments first, for the others are about them."""
