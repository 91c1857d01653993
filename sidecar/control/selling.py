"""What is sold, and the pages of Stripe on which it is paid."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from starlette.responses import Response

from persistence import accounts
from persistence.database import now_ms
from persistence.errors import TotalExceeded
from sidecar.billing import checkout, offers, orders
from sidecar.billing.customers import Customers
from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.offers import Offer
from sidecar.billing.orders import Order, OrderPurpose
from sidecar.billing.stripe_api import StripeApi
from sidecar.control import queries
from sidecar.control.actions import record
from sidecar.control.answers import page_answer
from sidecar.control.decode import invalid, set_fields
from sidecar.control.ledger import LEDGER_AWAY, Ledger, account_not_found, ledger_away
from sidecar.control.money_requests import CheckoutBody, OfferBody, PortalBody
from sidecar.control.resources import Call
from sidecar.domain import MAX_AMOUNT, AccountStatus
from sidecar.errors import ErrorCode, Refusal
from sidecar.web import json_answer

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

_KEY_REFUSED: Final = (401, 403)


class OfferHandlers:
    """What is done at `/v1/offers`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def put(self, call: Call[OfferBody]) -> Response:
        """Make or change an offer. Orders that were made of it stay as they are."""

        def work(c: Connection) -> Offer:
            before = offers.get_offer(c, call.path["id"])
            after = offers.put_offer(c, call.path["id"], set_fields(call.body), now_ms())
            if before is None or replace(before, updated_ms=after.updated_ms) != after:
                record(c, call, "put_offer")
            return after

        return json_answer(asdict(self._ledger.run(work)))

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of the price list."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        page = self._ledger.run(lambda c: offers.list_offers(c, limit, cursor))
        return page_answer(page, offers.FIELDS, call.headers.get("accept"))


class CheckoutHandlers:
    """What is done at an account's `/checkout` and `/portal`: Stripe is asked for a page."""

    def __init__(
        self, ledger: Ledger, stripe: StripeApi, customers: Customers, *, is_taxed: bool
    ) -> None:
        self._ledger = ledger
        self._stripe = stripe
        self._customers = customers
        self._is_taxed = is_taxed

    def checkout(self, call: Call[CheckoutBody]) -> Response:
        """Make an order, and then a page to pay it. The order is committed first."""
        order = self._ledger.run(lambda c: _order(c, call))
        session = asking(lambda: self._session(order, call.body))
        self._ledger.run(lambda c: orders.set_session(c, order.id, session["id"]))
        return json_answer({"url": session["url"], "order_id": order.id})

    def portal(self, call: Call[PortalBody]) -> Response:
        """Make a page on which a customer sees to their cards and subscriptions."""
        account, return_url = call.path["account"], call.body.return_url

        def make() -> dict[str, Any]:
            parameters = {"customer": self._customers.of(account), "return_url": return_url}
            key = f"portal:{uuid.uuid4().hex}"
            return self._stripe.post("/v1/billing_portal/sessions", parameters, key=key)

        session = asking(make)
        # Whoever has the page may change cards and cancel plans.
        self._ledger.run(lambda c: record(c, call, "make_portal"))
        return json_answer({"url": session["url"]})

    def _session(self, order: Order, body: CheckoutBody) -> dict[str, Any]:
        parameters = checkout.session_of(
            order,
            self._customers.of(order.account),
            success_url=body.success_url,
            cancel_url=body.cancel_url,
            saves_card=body.save_card,
            is_taxed=self._is_taxed,
        )
        return self._stripe.post("/v1/checkout/sessions", parameters, key=order.id)


def asking(ask: Callable[[], T]) -> T:
    """Return what Stripe answers. Raises `Refusal`: 503 when it cannot be asked, 422 when it won't.

    What was asked for is of no use to anybody who does not get the answer: it may be asked again.
    """
    try:
        return ask()
    except LEDGER_AWAY as error:
        raise ledger_away() from error
    except StripeAway as error:
        log.warning("Stripe gave no answer to a request", extra={"error": str(error)})
        raise Refusal(
            ErrorCode.STORE_UNAVAILABLE, "Stripe gives no answer now. Send it again."
        ) from error
    except StripeRefused as error:
        log.error("Stripe refused a request", extra={"error": str(error)})
        if error.status in _KEY_REFUSED:
            raise Refusal(
                ErrorCode.STORE_UNAVAILABLE,
                "Stripe does not take the key in CREDITS_STRIPE_SECRET_KEY for this.",
            ) from error
        raise invalid(f"Stripe refused it: {error}", None) from error


def _order(c: Connection, call: Call[CheckoutBody]) -> Order:
    account = accounts.get_account(c, call.path["account"])
    if account is None:
        raise account_not_found()
    if account.operator_status is AccountStatus.CLOSED:
        raise Refusal(
            ErrorCode.ACCOUNT_CLOSED, "The account is closed.", reason=account.operator_reason
        )
    offer = _offer(c, call.body)
    order = orders.make_order(
        c, account.account, OrderPurpose.CHECKOUT, offer, now_ms(), credits=call.body.credits
    )
    if account.granted_total + order.credits > MAX_AMOUNT:
        raise TotalExceeded(account.account)
    record(c, call, "make_checkout")
    return order


def _offer(c: Connection, body: CheckoutBody) -> Offer:
    if (body.credits is None) == (body.offer is None):
        raise invalid("Give either credits or offer.", "credits")
    if body.offer is None:
        return _rate(c, body.currency)
    offer = offers.get_offer(c, body.offer)
    if offer is None:
        raise invalid(f"There is no offer {body.offer}.", "offer")
    if body.currency not in (None, offer.currency):
        raise invalid(f"Offer {offer.id} is in {offer.currency}.", "currency")
    return offer


def _rate(c: Connection, currency: str | None) -> Offer:
    sold_in = offers.rate_currencies(c)
    if currency is None and len(sold_in) > 1:
        raise invalid(f"Say in which currency: {', '.join(sold_in)}.", "currency")
    rate = offers.rate_for(c, currency)
    if rate is None:
        where = f" in {currency}" if currency else ""
        raise invalid(f"The price list has no active rate{where}: name an offer.", "credits")
    return rate
