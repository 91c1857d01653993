"""How invoices come about and are collected: drafted, finalized, tried, tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.dev.fake_stripe import discounts, lifecycle, payments
from sidecar.dev.fake_stripe.clock import DAY
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.lists import whole
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.shapes import payments as payment_shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself

LINES_INLINE: Final = 10


def draft(
    state: State, subscription: Object, lines: list[Object], reason: str, cause: Cause
) -> Object:
    """Draft the invoice of a subscription, less what its coupons take off."""
    customer = state.get("customer", subscription["customer"])
    details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    parent = {
        "quote_details": None,
        "subscription_details": details,
        "type": "subscription_details",
    }
    off = discounts.apply(state, subscription, lines)
    fields: dict[str, Any] = {
        "parent": parent,
        "discounts": [each["discount"] for each in off],
        "total_discount_amounts": off,
        "auto_advance": subscription["status"] != "unpaid",
        "_is_first": reason == "subscription_create",
    }
    if lines:
        fields["period_start"] = min(line["period"]["start"] for line in lines)
    invoice = draft_of(state, customer, subscription["currency"], lines, reason, fields)
    subscription["latest_invoice"] = invoice["id"]
    state.emit("invoice.created", invoice, cause)
    return invoice


def draft_of(
    state: State,
    customer: Object,
    currency: str,
    lines: list[Object],
    reason: str,
    fields: dict[str, Any],
) -> Object:
    """Draft an invoice of some lines; no event tells of it yet."""
    invoice = state.add(shapes.invoice(state, customer, currency, reason, **fields))
    for line in lines:
        line["invoice"] = invoice["id"]
    url = f"/v1/invoices/{invoice['id']}/lines"
    invoice["lines"] = whole(url, lines[:LINES_INLINE], len(lines) > LINES_INLINE)
    invoice["lines"]["total_count"] = len(lines)
    invoice["_lines"] = lines
    subtotal = sum(line["amount"] for line in lines)
    total = subtotal - sum(off["amount"] for off in invoice["total_discount_amounts"])
    due = max(total + customer["balance"], 0)
    invoice.update(subtotal=subtotal, subtotal_excluding_tax=subtotal)
    invoice.update(total=total, total_excluding_tax=total, starting_balance=customer["balance"])
    invoice.update(amount_due=due, amount_remaining=due)
    return invoice


def finalize(state: State, invoice: Object, cause: Cause) -> None:
    """Make a draft final; one with nothing due is paid by that."""
    if invoice["status"] != "draft":
        return
    customer = state.get("customer", invoice["customer"])
    number = customer["next_invoice_sequence"]
    customer["next_invoice_sequence"] += 1
    invoice.update(status="open", number=f"{customer['id'][-8:].upper()}-{number:04}")
    invoice.update(effective_at=state.now(), automatically_finalizes_at=None)
    invoice["status_transitions"]["finalized_at"] = state.now()
    _use_balance(state, invoice, customer, cause)
    if invoice["amount_due"] > 0:
        _ask_for_payment(state, invoice, cause)
    state.emit("invoice.finalized", invoice, cause)
    if invoice["amount_due"] == 0:
        invoice["attempted"] = True
        _pay(state, invoice, cause)


def collect(state: State, invoice: Object, cause: Cause, method: str | None = None) -> None:
    """Try to take the money of an open invoice. Raises `StripeFailure` (402) when it fails."""
    if invoice["status"] != "open":
        return
    payment = state.get("payment_intent", invoice["_payment_intent"])
    if payment["status"] == "processing":
        return
    method = method or lifecycle.method_of(state, invoice)
    if method is None:
        _fail(state, invoice, cause)
        raise StripeFailure(
            "This customer has no attached payment source or default payment method.",
            status=402,
            kind="card_error",
            is_kept=True,
            code="resource_missing",
        )
    payments.choose_method(state, payment, method, cause)
    payments.try_charge(state, payment, cause, may_ask=True)
    if payment["status"] == "requires_action":
        state.emit("invoice.payment_action_required", invoice, cause)
        _fail(state, invoice, cause)
    elif payment["status"] == "processing":
        # The bank takes its time; until it says no, the subscription lives.
        lifecycle.after_payment(state, invoice, cause)


def quietly(collecting: Callable[[], None]) -> None:
    """Do something about an invoice whose failure is told by events only."""
    try:
        collecting()
    except StripeFailure as failure:
        if failure.status != 402:
            raise


def finalize_and_collect(state: State, invoice: Object, cause: Cause) -> None:
    """Make a draft final and try it at once; a failure is told by events."""
    finalize(state, invoice, cause)
    quietly(lambda: collect(state, invoice, cause))


def finalize_later(state: State, invoice: Object) -> None:
    """Let a draft become final in about an hour, and be collected then."""
    due = state.now() + state.settings.finalize_seconds
    invoice["automatically_finalizes_at"] = due

    def advance() -> None:
        if invoice["status"] == "draft" and invoice["auto_advance"]:
            finalize_and_collect(state, invoice, by_itself(invoice))

    state.clock.at(due, advance)


def settle_outside(state: State, invoice: Object, cause: Cause) -> None:
    """Count an open invoice as paid, without any payment."""
    _pay(state, invoice, cause)


def write_off(state: State, invoice: Object, cause: Cause) -> Object:
    """Expect nothing from an open invoice any more."""
    if invoice["status"] == "open":
        invoice["status_transitions"]["marked_uncollectible_at"] = state.now()
        invoice.update(status="uncollectible", next_payment_attempt=None, auto_advance=False)
        state.emit("invoice.marked_uncollectible", invoice, cause)
    return invoice


def _use_balance(state: State, invoice: Object, customer: Object, cause: Cause) -> None:
    """Pay from the customer's credit (a negative balance), or put a negative total there."""
    start, total = customer["balance"], invoice["total"]
    due = max(total + start, 0)
    end = min(total + start, 0)
    invoice.update(starting_balance=start, ending_balance=end)
    invoice.update(amount_due=due, amount_remaining=due)
    state.change(customer, "customer.updated", cause, balance=end)


def _ask_for_payment(state: State, invoice: Object, cause: Cause) -> None:
    """Make the one PaymentIntent of an invoice. Nothing in it names the invoice or us."""
    payment = state.add(
        payment_shapes.payment_intent(
            state,
            invoice["amount_due"],
            invoice["currency"],
            cause,
            customer=invoice["customer"],
            description="Subscription creation" if invoice.get("_is_first") else "Invoice",
        )
    )
    invoice["_payment_intent"] = payment["id"]
    state.add(shapes.invoice_payment(state, invoice, payment))
    state.emit("payment_intent.created", payment, cause)

    def settle(is_paid: bool, cause: Cause) -> None:
        if invoice["status"] == "open":
            (_pay if is_paid else _fail)(state, invoice, cause)

    state.when_settled[payment["id"]] = settle


def _pay(state: State, invoice: Object, cause: Cause) -> None:
    now = state.now()
    before = {"status": invoice["status"], "amount_paid": 0}
    invoice.update(status="paid", amount_paid=invoice["amount_due"], amount_remaining=0)
    invoice.update(next_payment_attempt=None, auto_advance=False)
    if invoice["amount_due"]:
        invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    invoice["status_transitions"]["paid_at"] = now
    for tie in state.all("invoice_payment", invoice=invoice["id"]):
        tie.update(status="paid", amount_paid=invoice["amount_paid"])
        tie["status_transitions"]["paid_at"] = now
        state.emit("invoice_payment.paid", tie, cause)
    state.emit("invoice.updated", invoice, cause, before)
    state.emit("invoice.paid", invoice, cause)
    state.emit("invoice.payment_succeeded", invoice, cause)
    lifecycle.after_payment(state, invoice, cause)


def _fail(state: State, invoice: Object, cause: Cause) -> None:
    """Count an attempt that failed, plan the next one, and tell of it."""
    before = {name: invoice[name] for name in ("attempt_count", "next_payment_attempt")}
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    days = state.settings.retry_days
    number = invoice["attempt_count"] - 1
    # A first invoice is for the customer to pay: nobody tries it again.
    is_last = invoice.get("_is_first", False) or number >= len(days)
    due = None if is_last or not invoice["auto_advance"] else state.now() + days[number] * DAY
    invoice["next_payment_attempt"] = due
    state.emit("invoice.updated", invoice, cause, before)
    state.emit("invoice.payment_failed", invoice, cause)
    if due is not None:
        state.clock.at(due, lambda: _retry(state, invoice, due))
    lifecycle.after_failure(state, invoice, cause)


def _retry(state: State, invoice: Object, due: int) -> None:
    if invoice["status"] == "open" and invoice["next_payment_attempt"] == due:
        quietly(lambda: collect(state, invoice, by_itself(invoice)))
