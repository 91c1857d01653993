"""Subscriptions as Stripe has them now: they can go back, so they are fetched, never believed."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.dialects.postgresql import insert

from persistence.plan_tables import stripe_subscriptions as subscriptions
from persistence.tables import accounts
from sidecar.billing import access
from sidecar.billing.applying import APPLIED, FAILED, Applying, Handler, Outcome
from sidecar.billing.errors import EventNotUnderstood, StripeRefused
from sidecar.billing.fetching import is_newer, lock_object
from sidecar.billing.fields import account_in, id_of, instant_ms, integer, one_of
from sidecar.billing.plan_states import FINAL, STATUSES, settle


def apply_subscription(one: Applying) -> Outcome:
    """Fetch the subscription that an event is about, and settle what it gives."""
    row = current(one, id_of(one.subject.get("id"), "its id"))
    settle(one.c, row["subscription"], one.now_ms)
    return account_outcome(one.c, row["account"])


def current(one: Applying, subscription: str) -> RowMapping:
    """Return a subscription as it is now; its row stays locked to the end of the transaction.

    Stripe is asked, save when it was asked after the event came, or the subscription is over for
    good; that of nobody may have got an account meanwhile, and is always asked for. Raises
    `StripeAway`, `StripeRefused`, `EventNotUnderstood`.
    """
    lock_object(one.c, subscription)
    row = _locked(one.c, subscription)
    is_over = row is not None and row["status"] in FINAL
    is_somebodys = row is not None and row["account"] is not None
    if row is not None and is_somebodys and (is_over or is_newer(row["fetched_ms"], one)):
        return row
    try:
        fetched = one.api.get(f"/v1/subscriptions/{subscription}")
    except StripeRefused as error:
        if not error.is_missing:
            raise
        if is_over or one.subject.get("object") != "subscription":
            if row is None:
                raise EventNotUnderstood(f"Stripe has no subscription {subscription}") from error
            return row
        # It was deleted with all that Stripe knew of it: the event is all that there is.
        fetched = one.subject
    return _record(one, subscription, fetched, row)


def account_outcome(c: Connection, account: str | None) -> Outcome:
    """Return that an event is applied, or waits for the account that it names."""
    if account is None or is_account_there(c, account):
        return Outcome(APPLIED)
    error = f"there is no account {account} yet"
    return Outcome(FAILED, error, waits_for_account=account)


def is_account_there(c: Connection, account: str) -> bool:
    """Tell whether an account was made."""
    return c.scalar(select(accounts.c.account).where(accounts.c.account == account)) is not None


def account_of(c: Connection, metadata: Any, customer: str) -> str | None:
    """Return the account that our metadata names, else the one of the customer, else None.

    Raises `EventNotUnderstood` when two accounts have that customer.
    """
    named = account_in(metadata)
    if named is not None:
        return named
    query = select(accounts.c.account).where(accounts.c.stripe_customer == customer)
    found = list(c.scalars(query.order_by(accounts.c.account).limit(2)))
    if len(found) > 1:
        raise EventNotUnderstood(
            f"accounts {found[0]} and {found[1]} both have the customer {customer}"
        )
    return found[0] if found else None


def _locked(c: Connection, subscription: str) -> RowMapping | None:
    query = select(subscriptions).where(subscriptions.c.subscription == subscription)
    return c.execute(query.with_for_update()).mappings().one_or_none()


def _record(
    one: Applying, subscription: str, fetched: dict[str, Any], before: RowMapping | None
) -> RowMapping:
    values = _facts(one, fetched) | {"fetched_ms": one.now_ms, "updated_ms": one.now_ms}
    new = insert(subscriptions).values(
        # What it gives is derived of the facts, right after them.
        values | {"subscription": subscription, "state": "suspended", "created_ms": one.now_ms}
    )
    kept = new.on_conflict_do_update(index_elements=["subscription"], set_=values)
    row = one.c.execute(kept.returning(*subscriptions.c)).mappings().one()
    former = None if before is None else before["account"]
    if former not in (None, row["account"]) and is_account_there(one.c, former):
        access.refresh(one.c, former, one.now_ms)
    return row


def _facts(one: Applying, fetched: dict[str, Any]) -> dict[str, Any]:
    customer = id_of(fetched.get("customer"), "the subscription's customer")
    ends_at = fetched.get("cancel_at_period_end") is True or fetched.get("cancel_at") is not None
    return {
        "account": account_of(one.c, fetched.get("metadata"), customer),
        "customer": customer,
        "status": one_of(fetched.get("status"), STATUSES, "the subscription's status"),
        "items": [_item(item) for item in _items(one, fetched)],
        "is_ending": ends_at,
        "trial_starts_ms": _optional_ms(fetched, "trial_start"),
        "trial_ends_ms": _optional_ms(fetched, "trial_end"),
    }


def _items(one: Applying, fetched: dict[str, Any]) -> list[dict[str, Any]]:
    items = fetched.get("items")
    if not isinstance(items, dict) or not isinstance(items.get("data"), list):
        raise EventNotUnderstood("the subscription has no list of items")
    if items.get("has_more"):
        path = "/v1/subscription_items"
        return list(one.api.every(path, subscription=id_of(fetched.get("id"), "its id")))
    return list(items["data"])


def _item(item: dict[str, Any]) -> dict[str, Any]:
    quantity = item.get("quantity")
    return {
        "item": id_of(item.get("id"), "the item's id"),
        "price": id_of(item.get("price"), "the item's price"),
        # What is metered has none.
        "quantity": 0 if quantity is None else integer(quantity, "the item's quantity"),
        "starts_ms": instant_ms(item.get("current_period_start"), "current_period_start"),
        "ends_ms": instant_ms(item.get("current_period_end"), "current_period_end"),
    }


def _optional_ms(fetched: dict[str, Any], field: str) -> int | None:
    value = fetched.get(field)
    return None if value is None else instant_ms(value, field)


HANDLERS: Final[dict[str, Handler]] = {
    f"customer.subscription.{kind}": apply_subscription
    for kind in (
        "created",
        "updated",
        "deleted",
        "paused",
        "resumed",
        "trial_will_end",
        "pending_update_applied",
        "pending_update_expired",
    )
}
"""Which handler applies which event of subscriptions."""
