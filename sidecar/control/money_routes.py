"""The paths about money: the price list, Checkout, plans, auto top-up, payments, alerts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from sidecar.billing.customers import Customers
from sidecar.billing.stripe_api import api_of
from sidecar.control.alerts import AlertHandlers
from sidecar.control.ledger import Ledger
from sidecar.control.money_requests import (
    AutoTopUpBody,
    CheckoutBody,
    OfferBody,
    PlanBody,
    PortalBody,
)
from sidecar.control.payments import PaymentHandlers
from sidecar.control.plans import PlanHandlers
from sidecar.control.queries import INSTANTS, PAGING
from sidecar.control.resources import Route
from sidecar.control.selling import CheckoutHandlers, OfferHandlers
from sidecar.control.top_ups import AutoTopUpHandlers
from sidecar.settings import Settings

_ACCOUNT: Final = "/v1/accounts/{account}"


@dataclass(frozen=True, slots=True)
class MoneyHandlers:
    """What these paths do; `checkout` is None without a key for Stripe."""

    offers: OfferHandlers
    plans: PlanHandlers
    top_ups: AutoTopUpHandlers
    payments: PaymentHandlers
    alerts: AlertHandlers
    checkout: CheckoutHandlers | None


def money_handlers(settings: Settings, engine: Engine, ledger: Ledger) -> MoneyHandlers:
    """Return the handlers that the settings ask for. Nothing is asked of Stripe yet."""
    stripe, checkout = api_of(settings), None
    if stripe is not None:
        customers = Customers(engine, stripe)
        is_taxed = settings.stripe_automatic_tax
        checkout = CheckoutHandlers(ledger, stripe, customers, is_taxed=is_taxed)
    return MoneyHandlers(
        OfferHandlers(ledger),
        PlanHandlers(ledger),
        AutoTopUpHandlers(ledger),
        PaymentHandlers(ledger),
        AlertHandlers(ledger),
        checkout,
    )


def money_routes(handlers: MoneyHandlers) -> list[Route]:
    """Return the routes; those that ask Stripe only when there is a key to ask with."""
    offers, plans, top_ups = handlers.offers, handlers.plans, handlers.top_ups
    payments, alerts = handlers.payments, handlers.alerts
    fees_query = (*INSTANTS, "limit", "thin_percent")
    return [
        Route("GET", "/v1/offers", offers.list_page, query=PAGING),
        Route("PUT", "/v1/offers/{id}", offers.put, body=OfferBody),
        Route("GET", "/v1/plans", plans.list_page, query=PAGING),
        Route("PUT", "/v1/plans/{stripe_price}", plans.put, body=PlanBody),
        Route("GET", f"{_ACCOUNT}/subscriptions", plans.subscriptions),
        Route("GET", f"{_ACCOUNT}/auto-top-up", top_ups.get),
        Route("PUT", f"{_ACCOUNT}/auto-top-up", top_ups.put, body=AutoTopUpBody),
        Route("GET", f"{_ACCOUNT}/payments", payments.list_page, query=PAGING),
        Route("GET", "/v1/stripe/fees", payments.fees, query=fees_query),
        Route("GET", "/v1/alerts", alerts.list_page, query=(*PAGING, "account", "status")),
        Route("POST", "/v1/alerts/{id}/replay", alerts.replay),
        *_stripe_routes(handlers.checkout),
    ]


def _stripe_routes(checkout: CheckoutHandlers | None) -> list[Route]:
    if checkout is None:
        return []
    return [
        Route("POST", path, handler, body=body, asks_stripe=True)
        for path, handler, body in (
            (f"{_ACCOUNT}/checkout", checkout.checkout, CheckoutBody),
            (f"{_ACCOUNT}/portal", checkout.portal, PortalBody),
        )
    ]
