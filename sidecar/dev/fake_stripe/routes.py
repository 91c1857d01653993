"""Which verb answers which path of the API."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe import (
    cards,
    catalogue,
    changes,
    checkout,
    customers,
    disputes,
    invoices,
    items,
    lists,
    payments,
    portal,
    refunds,
    subscriptions,
)
from sidecar.dev.fake_stripe.call import Verb, describing, retrieving
from sidecar.dev.fake_stripe.lists import listing

_PEOPLE: Final[dict[str, Verb]] = {
    "POST /v1/customers": customers.create,
    "GET /v1/customers": listing("customer", "/v1/customers", "email"),
    "GET /v1/customers/{id}": retrieving("customer"),
    "POST /v1/customers/{id}": customers.update,
    "GET /v1/customers/{id}/payment_methods": cards.listed,
    "GET /v1/payment_methods": cards.listed,
    "GET /v1/payment_methods/{id}": retrieving("payment_method"),
    "POST /v1/payment_methods/{id}": describing("payment_method", "payment_method.updated"),
    "POST /v1/payment_methods/{id}/attach": cards.attach,
    "POST /v1/payment_methods/{id}/detach": cards.detach,
}

_MONEY: Final[dict[str, Verb]] = {
    "POST /v1/payment_intents": payments.create,
    "GET /v1/payment_intents": listing("payment_intent", "/v1/payment_intents", "customer"),
    "GET /v1/payment_intents/{id}": retrieving("payment_intent"),
    "POST /v1/payment_intents/{id}": payments.update,
    "POST /v1/payment_intents/{id}/confirm": payments.confirm,
    "POST /v1/payment_intents/{id}/cancel": payments.cancel,
    "GET /v1/charges": listing("charge", "/v1/charges", "customer", "payment_intent"),
    "GET /v1/charges/{id}": retrieving("charge"),
    "POST /v1/charges/{id}": describing("charge", "charge.updated"),
    "GET /v1/balance_transactions": listing(
        "balance_transaction", "/v1/balance_transactions", "source", "type", "currency"
    ),
    "GET /v1/balance_transactions/{id}": retrieving("balance_transaction"),
}

_BACK: Final[dict[str, Verb]] = {
    "POST /v1/refunds": refunds.create,
    "GET /v1/refunds": listing("refund", "/v1/refunds", "charge", "payment_intent"),
    "GET /v1/refunds/{id}": retrieving("refund"),
    "POST /v1/refunds/{id}": describing("refund", "refund.updated"),
    "POST /v1/refunds/{id}/cancel": refunds.cancel,
    "GET /v1/disputes": listing("dispute", "/v1/disputes", "charge", "payment_intent"),
    "GET /v1/disputes/{id}": retrieving("dispute"),
    "POST /v1/disputes/{id}/close": disputes.accept,
    "GET /v1/radar/early_fraud_warnings": listing(
        "radar.early_fraud_warning", "/v1/radar/early_fraud_warnings", "charge", "payment_intent"
    ),
    "GET /v1/radar/early_fraud_warnings/{id}": retrieving("radar.early_fraud_warning"),
}

_CATALOGUE: Final[dict[str, Verb]] = {
    "POST /v1/products": catalogue.create_product,
    "GET /v1/products": listing("product", "/v1/products", "active"),
    "GET /v1/products/{id}": retrieving("product"),
    "POST /v1/products/{id}": describing("product", "product.updated"),
    "POST /v1/prices": catalogue.create_price,
    "GET /v1/prices": listing("price", "/v1/prices", "active", "product", "currency", "type"),
    "GET /v1/prices/{id}": retrieving("price"),
    "POST /v1/prices/{id}": describing("price", "price.updated"),
    "POST /v1/coupons": catalogue.create_coupon,
    "GET /v1/coupons": listing("coupon", "/v1/coupons"),
    "GET /v1/coupons/{id}": retrieving("coupon"),
}

_SUBSCRIPTIONS: Final[dict[str, Verb]] = {
    "POST /v1/subscriptions": subscriptions.create,
    "GET /v1/subscriptions": subscriptions.listed,
    "GET /v1/subscriptions/{id}": retrieving("subscription"),
    "POST /v1/subscriptions/{id}": changes.update,
    "DELETE /v1/subscriptions/{id}": subscriptions.cancel,
    "POST /v1/subscriptions/{id}/pause": subscriptions.pause,
    "POST /v1/subscriptions/{id}/resume": subscriptions.resume,
    "GET /v1/subscription_items": items.listed,
    "GET /v1/subscription_items/{id}": retrieving("subscription_item"),
}

_INVOICES: Final[dict[str, Verb]] = {
    "POST /v1/invoices": invoices.create,
    "POST /v1/invoiceitems": invoices.create_item,
    "GET /v1/invoices": listing(
        "invoice", "/v1/invoices", "customer", "subscription", "status", "collection_method"
    ),
    "GET /v1/invoices/{id}": retrieving("invoice"),
    "POST /v1/invoices/{id}": describing("invoice", "invoice.updated"),
    "GET /v1/invoices/{id}/lines": invoices.lines,
    "POST /v1/invoices/{id}/finalize": invoices.finalize,
    "POST /v1/invoices/{id}/pay": invoices.pay,
    "POST /v1/invoices/{id}/void": invoices.void,
    "POST /v1/invoices/{id}/mark_uncollectible": invoices.mark_uncollectible,
    "GET /v1/invoice_payments": invoices.payments,
    "GET /v1/invoice_payments/{id}": retrieving("invoice_payment"),
}

_PAGES: Final[dict[str, Verb]] = {
    "POST /v1/billing_portal/sessions": portal.create,
    "POST /v1/checkout/sessions": checkout.create,
    "GET /v1/checkout/sessions": listing(
        "checkout.session",
        "/v1/checkout/sessions",
        *("customer", "payment_intent", "status", "subscription"),
    ),
    "GET /v1/checkout/sessions/{id}": retrieving("checkout.session"),
    "GET /v1/checkout/sessions/{id}/line_items": checkout.line_items,
    "POST /v1/checkout/sessions/{id}/expire": checkout.expire,
}

_EVENTS: Final[dict[str, Verb]] = {
    "GET /v1/events": lists.events,
    "GET /v1/events/{id}": lists.event,
}

TABLE: Final[dict[str, Verb]] = {
    **_PEOPLE,
    **_MONEY,
    **_BACK,
    **_CATALOGUE,
    **_SUBSCRIPTIONS,
    **_INVOICES,
    **_PAGES,
    **_EVENTS,
}
"""`<method> <path>` to its verb."""
