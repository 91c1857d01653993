"""What a subscription becomes when an invoice of its is paid, fails, or when it ends."""

from __future__ import annotations

from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself

LIVE = ("trialing", "active", "past_due", "unpaid")
"""The statuses in which time goes on for a subscription."""


def subscription_of(state: State, invoice: Object) -> Object | None:
    """Return the subscription of an invoice, if it has one."""
    details = (invoice["parent"] or {}).get("subscription_details")
    return state.objects[details["subscription"]] if details else None


def method_of(state: State, invoice: Object) -> str | None:
    """Return the payment method that an invoice is paid with, if there is one."""
    subscription = subscription_of(state, invoice) or {}
    customer = state.get("customer", invoice["customer"])
    found: str | None = (
        invoice["default_payment_method"]
        or subscription.get("default_payment_method")
        or customer["invoice_settings"]["default_payment_method"]
    )
    return found


def set_status(state: State, subscription: Object, status: str, cause: Cause) -> None:
    """Give a subscription a status, and tell of it if it is another one."""
    state.change(subscription, "customer.subscription.updated", cause, status=status)


def after_payment(state: State, invoice: Object, cause: Cause) -> None:
    """Let a subscription live that waited for an invoice: for its first or its latest one."""
    subscription = subscription_of(state, invoice)
    if subscription is None:
        return
    status = subscription["status"]
    if status == "paused" and invoice.get("_resumes"):
        unpause(state, subscription, cause)
    elif status == "incomplete" or (
        status in ("past_due", "unpaid") and _is_latest(state, subscription, invoice)
    ):
        set_status(state, subscription, "active", cause)


def after_failure(state: State, invoice: Object, cause: Cause) -> None:
    """Let a subscription fall behind; after the last retry, what the settings say."""
    subscription = subscription_of(state, invoice)
    if subscription is None or subscription["status"] not in LIVE:
        return
    if invoice["next_payment_attempt"] is not None:
        if subscription["status"] == "active":
            set_status(state, subscription, "past_due", cause)
    elif not invoice["auto_advance"]:
        # Nobody but its customer tries this one: nothing is given up.
        return
    elif state.settings.after_retries == "canceled":
        cancel(state, subscription, cause, "payment_failed")
    else:
        set_status(state, subscription, state.settings.after_retries, cause)


def pause(state: State, subscription: Object, cause: Cause, reason: str) -> None:
    """Stop a subscription until it is resumed."""
    details = {
        "paused": {
            "subscription": {"type": reason},
            "transitioned_at": state.now(),
            "type": "subscription",
        }
    }
    fields = {"status": "paused", "status_details": details}
    state.change(subscription, "customer.subscription.updated", cause, **fields)
    state.emit("customer.subscription.paused", subscription, cause)


def unpause(state: State, subscription: Object, cause: Cause) -> None:
    """Let a paused subscription go on."""
    fields = {"status": "active", "status_details": None}
    state.change(subscription, "customer.subscription.updated", cause, **fields)
    state.emit("customer.subscription.resumed", subscription, cause)


def cancel(
    state: State, subscription: Object, cause: Cause, reason: str = "cancellation_requested"
) -> None:
    """End a subscription at once; what is open of it is not collected any more."""
    now = state.now()
    subscription["canceled_at"] = subscription["canceled_at"] or now
    subscription["cancellation_details"] = subscription["cancellation_details"] | {"reason": reason}
    subscription.update(status="canceled", ended_at=now)
    for invoice in _unpaid(state, subscription):
        invoice.update(auto_advance=False, next_payment_attempt=None)
    state.emit("customer.subscription.deleted", subscription, cause)


def expire(state: State, subscription: Object) -> None:
    """Give up a subscription whose first invoice was not paid in time."""
    if subscription["status"] != "incomplete":
        return
    cause = by_itself(subscription)
    subscription["ended_at"] = state.now()
    for invoice in _unpaid(state, subscription):
        void(state, invoice, cause)
    set_status(state, subscription, "incomplete_expired", cause)


def void(state: State, invoice: Object, cause: Cause) -> Object:
    """Take an invoice back."""
    invoice["status_transitions"]["voided_at"] = state.now()
    invoice.update(status="void", next_payment_attempt=None, auto_advance=False)
    payment = state.objects.get(invoice["_payment_intent"] or "")
    if payment is not None and payment["status"] not in ("succeeded", "processing", "canceled"):
        payment.update(status="canceled", canceled_at=state.now())
        payment["cancellation_reason"] = "void_invoice"
        state.emit("payment_intent.canceled", payment, cause)
    state.emit("invoice.voided", invoice, cause)
    return invoice


def _is_latest(state: State, subscription: Object, invoice: Object) -> bool:
    """Return whether no later invoice of a subscription waits for its money."""
    mine = [i for i in state.all("invoice") if subscription_of(state, i) is subscription]
    later = mine[mine.index(invoice) + 1 :]
    return all(each["status"] in ("draft", "paid", "uncollectible", "void") for each in later)


def _unpaid(state: State, subscription: Object) -> list[Object]:
    return [
        invoice
        for invoice in state.all("invoice")
        if invoice["status"] in ("draft", "open")
        and subscription_of(state, invoice) is subscription
    ]
