"""Invoices as requests see them: shown, paid, voided, written off, made by hand."""

from __future__ import annotations

from sidecar.dev.fake_stripe import cards, invoicing, lifecycle
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.lists import page
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.state import Object


def create(call: Call) -> Object:
    """Draft an invoice of what was put down for a customer by hand."""
    state, form = call.state, call.form
    customer = state.get("customer", form.required("customer"), "customer")
    fields = {"metadata": form.metadata(), "auto_advance": form.flag("auto_advance")}
    currency = form.text("currency")
    form.ignore("collection_method", "description", "pending_invoice_items_behavior")
    form.finish()
    lines = customer.pop("_pending_lines", [])
    currency = currency or (lines[0]["currency"] if lines else "usd")
    invoice = invoicing.draft_of(state, customer, currency, lines, "manual", fields)
    state.emit("invoice.created", invoice, call.cause)
    if invoice["auto_advance"]:
        invoicing.finalize_later(state, invoice)
    return invoice


def create_item(call: Call) -> Object:
    """Put something down for the next invoice of a customer that is made by hand."""
    state, form = call.state, call.form
    customer = state.get("customer", form.required("customer"), "customer")
    amount = form.integer("amount", least=-(10**12)) or 0
    currency, text = form.required("currency").lower(), form.text("description") or "Item"
    form.ignore("metadata")
    form.finish()
    line = shapes.manual_line(state, customer, amount, currency, text)
    customer.setdefault("_pending_lines", []).append(line)
    item = {
        "id": line["parent"]["invoice_item_details"]["invoice_item"],
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer["id"],
        "date": state.now(),
        "description": text,
        "livemode": customer["livemode"],
    }
    return state.add(item)


def finalize(call: Call) -> Object:
    """Make a draft final now; it is collected then if it advances by itself."""
    invoice = call.found("invoice")
    advances = call.form.flag("auto_advance") if call.form.has("auto_advance") else None
    call.form.finish()
    _require(invoice, "draft")
    if advances is not None:
        invoice["auto_advance"] = advances
    invoicing.finalize(call.state, invoice, call.cause)
    if invoice["auto_advance"]:
        invoicing.quietly(lambda: invoicing.collect(call.state, invoice, call.cause))
    return invoice


def pay(call: Call) -> Object:
    """Pay an open invoice now, with its own card or another one."""
    invoice, state = call.found("invoice"), call.state
    method, is_outside = call.form.text("payment_method"), call.form.flag("paid_out_of_band")
    call.form.ignore("off_session", "forgive")
    call.form.finish()
    if invoice["status"] == "draft":
        invoicing.finalize(state, invoice, call.cause)
        if invoice["status"] == "paid":
            return invoice
    _require(invoice, "open", "uncollectible")
    if is_outside:
        invoicing.settle_outside(state, invoice, call.cause)
        return invoice
    invoice["status"] = "open"
    if method is not None:
        method = cards.named(state, method, call.cause, "payment_method")["id"]
    invoicing.collect(state, invoice, call.cause, method)
    return invoice


def void(call: Call) -> Object:
    """Take an open invoice back."""
    invoice = call.found("invoice")
    call.form.finish()
    _require(invoice, "open", "uncollectible")
    return lifecycle.void(call.state, invoice, call.cause)


def mark_uncollectible(call: Call) -> Object:
    """Write an open invoice off."""
    invoice = call.found("invoice")
    call.form.finish()
    _require(invoice, "open")
    return invoicing.write_off(call.state, invoice, call.cause)


def lines(call: Call) -> Object:
    """List all lines of an invoice, in their order."""
    invoice = call.found("invoice")
    return page(call.form, f"/v1/invoices/{call.id}/lines", invoice["_lines"][::-1])


def payments(call: Call) -> Object:
    """List what ties invoices to their payments: of an invoice, or of a PaymentIntent."""
    invoice, status = call.form.text("invoice"), call.form.text("status")
    by = call.form.part("payment")
    by.ignore("type")
    payment = by.text("payment_intent")
    by.finish()
    ties = [
        tie
        for tie in call.state.all("invoice_payment")
        if invoice in (None, tie["invoice"])
        and status in (None, tie["status"])
        and payment in (None, tie["payment"]["payment_intent"])
    ]
    return page(call.form, "/v1/invoice_payments", ties)


def _require(invoice: Object, *statuses: str) -> None:
    if invoice["status"] not in statuses:
        raise StripeFailure(
            f"This invoice is {invoice['status']}; it must be {' or '.join(statuses)}.",
            code="invoice_not_editable",
        )
