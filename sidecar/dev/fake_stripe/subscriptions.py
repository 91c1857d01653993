"""Subscriptions: begun, listed, cancelled, paused, resumed."""

from __future__ import annotations

from sidecar.dev.fake_stripe import (
    cards,
    charges,
    customers,
    discounts,
    invoicing,
    items,
    lifecycle,
    renewals,
    terms,
)
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.lists import page
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State
from sidecar.dev.fake_stripe.terms import Terms

MEANINGLESS = (
    *("automatic_tax", "billing_mode", "collection_method", "enable_incomplete_payments"),
    *("off_session", "payment_settings", "proration_date", "description"),
)

BEHAVIORS = ("allow_incomplete", "default_incomplete", "error_if_incomplete")
"""What becomes of a subscription whose first or changed invoice is not paid at once."""


def create(call: Call) -> Object:
    """Begin a subscription with a first invoice, which is tried at once."""
    form, state = call.form, call.state
    customer = state.get("customer", form.required("customer"), "customer")
    wanted = terms.take(state, form)
    wanted.items = items.take(state, form, call.cause)
    wanted.method = form.text("default_payment_method")
    wanted.payment_behavior = form.choice("payment_behavior", *BEHAVIORS)
    wanted.cancel_at_period_end = form.flag("cancel_at_period_end")
    wanted.cancel_at = form.integer("cancel_at")
    form.ignore("proration_behavior", *MEANINGLESS)
    form.finish()
    return start(state, customer, wanted, call.cause)


def start(state: State, customer: Object, wanted: Terms, cause: Cause) -> Object:
    """Begin a subscription on some terms. Raises `StripeFailure` when it may not begin."""
    _require_terms(state, customer, wanted)
    subscription = _new(state, customer, wanted, cause)
    trial_end = subscription["trial_end"]
    lines = [
        items.renewal_line(state, item, is_free=trial_end is not None)
        for item in subscription["items"]["data"]
    ]
    state.emit("customer.subscription.created", subscription, cause)
    invoice = invoicing.draft(state, subscription, lines, "subscription_create", cause)
    invoicing.finalize(state, invoice, cause)
    if wanted.payment_behavior != "default_incomplete":
        invoicing.quietly(lambda: invoicing.collect(state, invoice, cause))
    renewals.schedule(state, subscription)
    renewals.schedule_cancellation(state, subscription)
    if trial_end is not None:
        renewals.schedule_trial_warning(state, subscription)
    elif subscription["status"] == "incomplete":
        renewals.schedule_expiry(state, subscription)
    return subscription


def listed(call: Call) -> Object:
    """List subscriptions: those that are not cancelled, unless a status is asked for."""
    form = call.form
    customer, price = form.text("customer"), form.text("price")
    status = form.text("status") or "live"
    ended = ("canceled", "incomplete_expired")

    def matches(subscription: Object) -> bool:
        prices = [item["price"]["id"] for item in subscription["items"]["data"]]
        is_wanted = {
            "all": True,
            "live": subscription["status"] not in ended,
            "ended": subscription["status"] in ended,
        }
        return (
            is_wanted.get(status, subscription["status"] == status)
            and customer in (None, subscription["customer"])
            and (price is None or price in prices)
        )

    return page(form, "/v1/subscriptions", [*call.state.all("subscription")], matches)


def cancel(call: Call) -> Object:
    """End a subscription at once; nothing is given back unless that is asked for."""
    subscription, form = call.found("subscription"), call.form
    details = form.part("cancellation_details")
    said = {name: details.text(name) for name in ("comment", "feedback")}
    details.finish()
    prorate, invoice_now = form.flag("prorate"), form.flag("invoice_now")
    form.finish()
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise StripeFailure(f"No such subscription: '{call.id}'", status=404,
                            code="resource_missing", param="id")  # fmt: skip
    subscription["cancellation_details"] = subscription["cancellation_details"] | said
    if prorate:
        subscription["_pending_lines"] += [
            items.proration_line(call.state, item, is_credit=True)
            for item in subscription["items"]["data"]
        ]
    lifecycle.cancel(call.state, subscription, call.cause)
    if invoice_now and subscription["_pending_lines"]:
        lines, subscription["_pending_lines"] = subscription["_pending_lines"], []
        reason = "subscription_update"
        invoice = invoicing.draft(call.state, subscription, lines, reason, call.cause)
        invoicing.finalize_and_collect(call.state, invoice, call.cause)
    return subscription


def pause(call: Call) -> Object:
    """Pause a subscription: no period goes on, nothing is invoiced."""
    subscription = call.found("subscription")
    call.form.ignore("type", "bill_for", "invoicing_behavior")
    call.form.finish()
    if subscription["status"] != "active":
        raise StripeFailure("Only active subscriptions can be paused.")
    lifecycle.pause(call.state, subscription, call.cause, "pause_requested")
    return subscription


def resume(call: Call) -> Object:
    """Resume a paused subscription with a new period, once that is paid for."""
    subscription, form, state = call.found("subscription"), call.form, call.state
    anchor = form.choice("billing_cycle_anchor", "now", "unchanged")
    form.ignore("proration_behavior", "proration_date", "payment_behavior")
    form.finish()
    if subscription["status"] != "paused":
        raise StripeFailure("Only paused subscriptions can be resumed.")
    if anchor == "unchanged" and items.next_boundary(subscription) > state.now():
        lifecycle.unpause(state, subscription, call.cause)
        renewals.schedule(state, subscription)
        return subscription
    invoice = renewals.begin_period(state, subscription, call.cause, "subscription_update")
    invoice["_resumes"] = True
    invoicing.finalize_and_collect(state, invoice, call.cause)
    return subscription


def would_be_declined(state: State, method: str | None) -> StripeFailure | None:
    """Return the failure of charging a payment method now, without charging it."""
    if method is None:
        return StripeFailure(
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a default payment method.",
            code="resource_missing",
        )
    bank = cards.bank_behind(state, method)
    if bank.asks_for_authentication:
        bank = cards.declining("authentication_required")
    if bank.decline_code is None or bank.is_delayed:
        return None
    error = charges.error_of(bank)
    return StripeFailure(error.pop("message"), status=402, kind="card_error", is_kept=True, **error)


def require_own_method(state: State, customer: str, method: str | None) -> None:
    """Refuse a payment method that is not the customer's."""
    if method is not None:
        found = state.get("payment_method", method, "default_payment_method")
        if found["customer"] != customer:
            raise StripeFailure(
                f"The customer does not have a payment method with the ID {method}.",
                code="resource_missing",
                param="default_payment_method",
            )


def _require_terms(state: State, customer: Object, wanted: Terms) -> None:
    if not wanted.items:
        raise StripeFailure("Missing required param: items.", param="items")
    require_own_method(state, customer["id"], wanted.method)
    if wanted.trial_end_at(state.now()) is not None or wanted.payment_behavior == BEHAVIORS[1]:
        return
    method = wanted.method or customers.default_method(state, customer["id"])
    is_free = all(not (wish.price or {}).get("unit_amount") for wish in wanted.items)
    is_free = is_free or any(coupon["percent_off"] == 100 for coupon in wanted.coupons)
    failure = None if is_free else would_be_declined(state, method)
    if failure and (method is None or wanted.payment_behavior == "error_if_incomplete"):
        raise failure


def _new(state: State, customer: Object, wanted: Terms, cause: Cause) -> Object:
    now = state.now()
    end = wanted.trial_end_at(now)
    fields = {
        "cancel_at": wanted.cancel_at,
        "cancel_at_period_end": wanted.cancel_at_period_end,
        "default_payment_method": wanted.method,
        "description": wanted.description,
        "metadata": wanted.metadata,
        "trial_settings": {"end_behavior": {"missing_payment_method": wanted.missing_method}},
    }
    if end is not None:
        fields |= {"billing_cycle_anchor": end, "status": "trialing"}
        fields |= {"trial_end": end, "trial_start": now}
    subscription = state.add(shapes.subscription(state, customer, cause, **fields))
    for wish in wanted.items:
        item = items.add(state, subscription, wish, now, end)
        subscription["currency"] = item["price"]["currency"]
    if wanted.cancel_at_period_end:
        subscription["cancel_at"] = items.next_boundary(subscription)
    discounts.use(state, subscription, wanted.coupons)
    return subscription
