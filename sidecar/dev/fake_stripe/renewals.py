"""What time does to subscriptions: trials end, periods end, first invoices expire."""

from __future__ import annotations

from sidecar.dev.fake_stripe import invoicing, items, lifecycle
from sidecar.dev.fake_stripe.clock import DAY, HOUR
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself, public

FIRST_INVOICE_SECONDS = 23 * HOUR
TRIAL_WARNING_SECONDS = 3 * DAY


def schedule(state: State, subscription: Object) -> None:
    """Put the end of the period that ends next on the agenda."""
    boundary = items.next_boundary(subscription)
    state.clock.at(boundary, lambda: _end_period(state, subscription, boundary))


def schedule_expiry(state: State, subscription: Object) -> None:
    """Give up the subscription later if its first invoice is not paid until then."""
    due = state.now() + FIRST_INVOICE_SECONDS
    state.clock.at(due, lambda: lifecycle.expire(state, subscription))


def schedule_trial_warning(state: State, subscription: Object) -> None:
    """Tell of the end of a trial three days before it, or at once when it is shorter."""
    end = subscription["trial_end"]

    def warn() -> None:
        if subscription["status"] == "trialing" and subscription["trial_end"] == end:
            cause = by_itself(subscription)
            state.emit("customer.subscription.trial_will_end", subscription, cause)

    state.clock.at(max(end - TRIAL_WARNING_SECONDS, state.now()), warn)


def schedule_cancellation(state: State, subscription: Object) -> None:
    """End a subscription at its `cancel_at`, if that still stands then."""
    due = subscription["cancel_at"]

    def end() -> None:
        if subscription["cancel_at"] == due and subscription["status"] in lifecycle.LIVE:
            lifecycle.cancel(state, subscription, by_itself(subscription))

    if due is not None:
        state.clock.at(due, end)


def begin_period(state: State, subscription: Object, cause: Cause, reason: str) -> Object:
    """Begin a new cycle now for every item, and return the draft of its invoice."""
    now = state.now()
    before = public(subscription)
    subscription["billing_cycle_anchor"] = now
    _move(subscription, subscription["items"]["data"], now)
    lines = [items.renewal_line(state, item) for item in subscription["items"]["data"]]
    invoice = invoicing.draft(
        state, subscription, _with_pending(subscription, lines), reason, cause
    )
    state.tell(subscription, "customer.subscription.updated", cause, before)
    schedule(state, subscription)
    return invoice


def end_trial(state: State, subscription: Object, cause: Cause, reason: str) -> Object | None:
    """End a trial now and return the draft that follows; without a card, what was agreed."""
    customer = state.get("customer", subscription["customer"])
    method = (
        subscription["default_payment_method"]
        or customer["invoice_settings"]["default_payment_method"]
    )
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    subscription["trial_end"] = state.now()
    if method is None and behavior == "cancel":
        lifecycle.cancel(state, subscription, cause)
        return None
    if method is None and behavior == "pause":
        lifecycle.pause(state, subscription, cause, "trial_end_without_payment_method")
        return None
    before = {"status": subscription["status"]}
    subscription["status"] = "active"
    state.emit("customer.subscription.updated", subscription, cause, before)
    return begin_period(state, subscription, cause, reason)


def bill_threshold(state: State, subscription: Object, amount: int) -> Object:
    """Invoice an amount in mid-period, as Stripe does when usage passes a threshold."""
    cause, item = by_itself(subscription), subscription["items"]["data"][0]
    start = item["current_period_start"]
    line = shapes.line(state, item, amount, start, state.now(), proration=False)
    before = public(subscription)
    invoice = invoicing.draft(state, subscription, [line], "subscription_threshold", cause)
    state.tell(subscription, "customer.subscription.updated", cause, before)
    invoicing.finalize_and_collect(state, invoice, cause)
    return invoice


def _end_period(state: State, subscription: Object, boundary: int) -> None:
    """Do what is due at the end of a period, unless the subscription has gone another way."""
    is_live = subscription["status"] in lifecycle.LIVE
    if not is_live or items.next_boundary(subscription) != boundary:
        return
    cause = by_itself(subscription)
    cancel_at = subscription["cancel_at"]
    if subscription["cancel_at_period_end"] or (cancel_at and cancel_at <= boundary):
        lifecycle.cancel(state, subscription, cause)
    elif subscription["status"] == "trialing":
        invoice = end_trial(state, subscription, cause, "subscription_cycle")
        if invoice is not None:
            _let_become_due(state, subscription, invoice)
    else:
        _renew(state, subscription, boundary, cause)


def _renew(state: State, subscription: Object, boundary: int, cause: Cause) -> None:
    """Move the periods that end now; the invoice for the new ones follows them."""
    before = public(subscription)
    ending = [i for i in subscription["items"]["data"] if i["current_period_end"] == boundary]
    _move(subscription, ending, boundary)
    lines = [items.renewal_line(state, item) for item in ending]
    lines = _with_pending(subscription, lines)
    invoice = invoicing.draft(state, subscription, lines, "subscription_cycle", cause)
    state.tell(subscription, "customer.subscription.updated", cause, before)
    schedule(state, subscription)
    _let_become_due(state, subscription, invoice)


def _move(subscription: Object, moving: list[Object], start: int) -> None:
    for item in moving:
        items.set_period(subscription, item, start)


def _with_pending(subscription: Object, lines: list[Object]) -> list[Object]:
    """Return the lines with the prorations that wait for the next invoice; they wait no more."""
    pending = subscription["_pending_lines"]
    subscription["_pending_lines"] = []
    return [*pending, *lines]


def _let_become_due(state: State, subscription: Object, invoice: Object) -> None:
    """Let a renewal's draft go the way that the subscription's settings send it."""
    cause, pause = by_itself(subscription), subscription["pause_collection"]
    if pause is not None and pause["behavior"] == "void":
        lifecycle.void(state, invoice, cause)
    elif pause is not None and pause["behavior"] == "keep_as_draft":
        invoice["auto_advance"] = False
    elif pause is not None:
        invoicing.finalize(state, invoice, cause)
        invoicing.write_off(state, invoice, cause)
    elif invoice["amount_due"] == 0:
        invoicing.finalize(state, invoice, cause)
    elif invoice["auto_advance"]:
        invoicing.finalize_later(state, invoice)
