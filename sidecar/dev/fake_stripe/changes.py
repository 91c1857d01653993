"""Changes of a subscription: other items, another card, an end, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sidecar.dev.fake_stripe import (
    customers,
    discounts,
    invoicing,
    items,
    renewals,
    subscriptions,
    terms,
)
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself, public

_PRORATION = ("create_prorations", "always_invoice", "none")


@dataclass(frozen=True, slots=True)
class _Billing:
    """How a change is to be paid for, as the request says."""

    proration: str
    payment: str
    is_anchored_now: bool


def update(call: Call) -> Object:
    """Change a subscription; an invoice follows at once where Stripe makes one."""
    subscription, form, state = call.found("subscription"), call.form, call.state
    wishes = items.take(state, form, call.cause)
    billing = _billing(form)
    trial_end = terms.trial_end(state, form)
    coupons = discounts.take(state, form)
    fields = _fields(state, form, subscription)
    form.ignore(*subscriptions.MEANINGLESS)
    form.finish()
    _require_changeable(state, subscription, fields, billing.payment)
    before = public(subscription)
    change = _change_items(state, subscription, wishes)
    subscription.update(fields)
    if coupons is not None:
        discounts.use(state, subscription, coupons)
    if trial_end is not None and trial_end > state.now():
        _extend_trial(state, subscription, trial_end)
    state.tell(subscription, "customer.subscription.updated", call.cause, before)
    renewals.schedule_cancellation(state, subscription)
    _schedule_resumption(state, subscription)
    if trial_end is not None and trial_end <= state.now():
        _end_trial(state, subscription, call.cause)
    elif subscription["status"] in ("active", "past_due"):
        _bill(state, subscription, change, before, billing, call.cause)
    return subscription


def _billing(form: Form) -> _Billing:
    return _Billing(
        form.choice("proration_behavior", *_PRORATION),
        form.choice("payment_behavior", *subscriptions.BEHAVIORS),
        form.choice("billing_cycle_anchor", "unchanged", "now") == "now",
    )


def _bill(
    state: State,
    subscription: Object,
    change: items.Change,
    before: Object,
    billing: _Billing,
    cause: Cause,
) -> None:
    """Invoice what a change costs: with a new cycle, now, or with the next renewal."""
    reason, pending = "subscription_update", subscription["_pending_lines"]
    is_prorated = billing.proration != "none"
    if billing.is_anchored_now or change.renewed:
        pending += _unused(state, before) if is_prorated else []
        invoice = renewals.begin_period(state, subscription, cause, reason)
    elif change.prorations and billing.proration == "always_invoice":
        subscription["_pending_lines"] = []
        lines, shown = [*pending, *change.prorations], public(subscription)
        invoice = invoicing.draft(state, subscription, lines, reason, cause)
        state.tell(subscription, "customer.subscription.updated", cause, shown)
    else:
        pending += change.prorations if is_prorated else []
        return
    if billing.payment == "default_incomplete":
        invoicing.finalize(state, invoice, cause)
    else:
        invoicing.finalize_and_collect(state, invoice, cause)


def _unused(state: State, before: Object) -> list[Object]:
    """Return the credits for what is left of the periods that end before their time."""
    return [items.proration_line(state, item, is_credit=True) for item in before["items"]["data"]]


def _change_items(state: State, subscription: Object, wishes: list[items.Wish]) -> items.Change:
    change = items.Change(state, subscription, wishes)
    old = subscription["items"]
    subscription["items"] = dict(old)
    try:
        change.make()
    except StripeFailure:
        subscription["items"] = old
        for item in old["data"]:
            state.add(item)
        raise
    return change


def _extend_trial(state: State, subscription: Object, trial_end: int) -> None:
    """Let the trial end at another instant, or begin one."""
    start = subscription["trial_start"] or state.now()
    subscription.update(trial_end=trial_end, trial_start=start, status="trialing")
    subscription["billing_cycle_anchor"] = trial_end
    for item in subscription["items"]["data"]:
        items.set_period(subscription, item, item["current_period_start"], trial_end)
    renewals.schedule(state, subscription)
    renewals.schedule_trial_warning(state, subscription)


def _end_trial(state: State, subscription: Object, cause: Cause) -> None:
    if subscription["status"] == "trialing":
        reason = state.settings.early_trial_reason
        invoice = renewals.end_trial(state, subscription, cause, reason)
        if invoice is not None:
            invoicing.finalize_and_collect(state, invoice, cause)


def _fields(state: State, form: Form, subscription: Object) -> dict[str, Any]:
    """Take the fields that are simply set."""
    fields: dict[str, Any] = {"metadata": form.changed_metadata(subscription["metadata"])}
    if form.has("default_payment_method"):
        fields["default_payment_method"] = form.text("default_payment_method")
    if form.has("cancel_at_period_end"):
        is_wanted = form.flag("cancel_at_period_end")
        fields["cancel_at_period_end"] = is_wanted
        fields["cancel_at"] = items.next_boundary(subscription) if is_wanted else None
        fields["canceled_at"] = state.now() if is_wanted else None
    if form.has("cancel_at"):
        fields["cancel_at"] = form.integer("cancel_at")
        fields["canceled_at"] = state.now() if fields["cancel_at"] else None
    if form.has("pause_collection"):
        fields["pause_collection"] = _pause_collection(form)
    missing = terms.missing_method(form)
    if missing is not None:
        fields["trial_settings"] = {"end_behavior": {"missing_payment_method": missing}}
    details = form.part("cancellation_details")
    if not details.is_empty:
        said = {name: details.text(name) for name in ("comment", "feedback")}
        fields["cancellation_details"] = subscription["cancellation_details"] | said
        details.finish()
    return fields


def _pause_collection(form: Form) -> Object | None:
    part = form.part("pause_collection")
    if part.is_empty:
        return None
    behavior = part.choice("behavior", "keep_as_draft", "mark_uncollectible", "void")
    resumes_at = part.integer("resumes_at")
    part.finish()
    return {"behavior": behavior, "resumes_at": resumes_at}


def _schedule_resumption(state: State, subscription: Object) -> None:
    """Let a pause of collection end at its `resumes_at`, if it still stands then."""
    pause = subscription["pause_collection"]

    def end() -> None:
        if subscription["pause_collection"] == pause:
            cause = by_itself(subscription)
            state.change(
                subscription, "customer.subscription.updated", cause, pause_collection=None
            )

    if pause is not None and pause["resumes_at"]:
        state.clock.at(pause["resumes_at"], end)


def _require_changeable(
    state: State, subscription: Object, fields: dict[str, Any], behavior: str
) -> None:
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise StripeFailure("A canceled subscription can only update its cancellation_details.")
    customer = subscription["customer"]
    method = fields.get("default_payment_method", subscription["default_payment_method"])
    subscriptions.require_own_method(state, customer, method)
    if behavior == "error_if_incomplete":
        method = method or customers.default_method(state, customer)
        failure = subscriptions.would_be_declined(state, method)
        if failure is not None:
            raise failure
