"""Checkout and the portal against the fake Stripe, from the order to the credits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from persistence.money_tables import orders
from persistence.stripe_tables import control_actions
from sidecar.billing.customers import Customers
from sidecar.billing.errors import StripeAway
from sidecar.billing.inbox import InboxJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.control.resources import THREADS
from sidecar.kinds import Secret
from sidecar.metrics import WorkerMetrics
from tests.integration import fake_stripe
from tests.integration.control_client import control_listener, error_of, refused
from tests.integration.fake_stripe import KEY, Fake
from tests.integration.meter_server import eventually
from tests.integration.stripe_events import body_of, payment_succeeded, signed
from tests.integration.stripe_inbox import Clock

CREDIT = 1_000_000
BODY = {"success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}"}

NONE = {"offer": None, "currency": None}


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


class Shop:
    """A listener with a price list and the account `acme`, and the fake that it sells through."""

    def __init__(self, control: httpx.Client, fake: Fake, engine: Engine) -> None:
        self.control = control
        self.fake = fake
        self.engine = engine
        api = StripeApi(KEY, fake.url)
        self.job = InboxJob(engine, WorkerMetrics(CollectorRegistry()), stripe=api)
        control.put("/v1/accounts/acme", json={"name": "Acme"})

    def offer(self, id: str = "rate", **fields: Any) -> None:
        """Put an offer: one credit for a dollar, any number, unless told otherwise."""
        rate: dict[str, Any] = {"credits": CREDIT, "price": 100, "currency": "usd", "is_rate": True}
        response = self.control.put(f"/v1/offers/{id}", json=rate | fields)
        assert response.status_code == 200, response.text

    def checkout(self, account: str = "acme", **fields: Any) -> httpx.Response:
        """Ask for a page to pay on."""
        return self.control.post(f"/v1/accounts/{account}/checkout", json=BODY | fields)

    def sold(self, **fields: Any) -> dict[str, Any]:
        """Ask for a page; return the only session at Stripe, checked against the answer."""
        response = self.checkout(**fields)
        assert response.status_code == 200, response.text
        session = self.sessions()[-1]
        assert response.json() == {"url": session["url"], "order_id": self.order()["id"]}
        return session

    def sessions(self) -> list[dict[str, Any]]:
        """Return the Checkout sessions at Stripe."""
        return [dict(one) for one in self.fake.state.all("checkout.session")]

    def customers(self) -> list[dict[str, Any]]:
        """Return the customers at Stripe."""
        return [dict(one) for one in self.fake.state.all("customer")]

    def orders(self) -> list[dict[str, Any]]:
        """Return all orders, oldest first."""
        with self.engine.connect() as c:
            query = select(orders).order_by(orders.c.created_ms)
            return [dict(row) for row in c.execute(query).mappings()]

    def order(self) -> dict[str, Any]:
        """Return the newest order."""
        return self.orders()[-1]

    def account(self) -> dict[str, Any]:
        """Return the account."""
        row: dict[str, Any] = self.control.get("/v1/accounts/acme").json()
        return row

    def pay(self, session: dict[str, Any], card: str = "pm_card_visa") -> None:
        """Pay a session, deliver every event, and apply them."""
        self.fake.control(f"checkout/{session['id']}/pay", payment_method=card)
        for event in self.fake.events():
            payload = body_of(event)
            delivered = self.control.post(
                "/stripe/webhook", content=payload, headers=signed(payload)
            )
            assert delivered.status_code == 200, delivered.text
        while self.job.run_once():
            pass


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the listener, to be overridden."""
    return {}


@pytest.fixture
def shop(
    postgres_url: str,
    redis_client: redis.Redis,
    redis_url: str,
    engine: Engine,
    fake: Fake,
    settings: dict[str, Any],
) -> Iterator[Shop]:
    given = {"stripe_secret_key": Secret(KEY), "stripe_api_base": fake.url} | settings
    with control_listener(postgres_url, redis_url, **given) as control:
        yield Shop(control, fake, engine)


def test_credits_are_sold_at_the_rate_and_granted_once_when_they_are_paid(shop: Shop) -> None:
    shop.offer()
    session = shop.sold(credits=25 * CREDIT + 1)
    order = shop.order()
    assert (order["credits"], order["price"], order["currency"]) == (25 * CREDIT + 1, 2_501, "usd")
    assert (order["account"], order["purpose"], order["offer"]) == ("acme", "checkout", "rate")
    assert order["checkout_session"] == session["id"]
    assert shop.account()["balances"]["ledger"] == 0
    shop.pay(session)
    assert shop.account()["balances"]["ledger"] == 25 * CREDIT + 1
    (paid,) = shop.control.get("/v1/accounts/acme/payments").json()["data"]
    assert (paid["order_id"], paid["paid_minor_units"]) == (order["id"], 2_501)


def test_the_session_says_what_is_sold_to_whom(shop: Shop) -> None:
    shop.offer("pack", is_rate=False, credits=12 * CREDIT, price=1_000)
    session = shop.sold(offer="pack", cancel_url="http://shop.example/back")
    metadata = {"purpose": "topup", "order_id": shop.order()["id"], "account": "acme"}
    assert session["metadata"] == metadata
    assert session["_payment_intent_data"]["metadata"] == metadata
    assert session["_payment_intent_data"]["setup_future_usage"] is None
    assert session["client_reference_id"] == "acme"
    assert session["customer"] == shop.account()["stripe_customer"]
    assert (session["success_url"], session["cancel_url"]) == (
        BODY["success_url"],
        "http://shop.example/back",
    )
    assert session["automatic_tax"]["enabled"] is False
    (line,) = session["_line_items"]
    assert (line["description"], line["quantity"]) == ("12 credits", 1)
    assert (line["amount_total"], line["currency"]) == (1_000, "usd")


def test_a_card_is_saved_when_the_customer_says_so(shop: Shop) -> None:
    shop.offer()
    session = shop.sold(credits=10 * CREDIT, save_card=True)
    assert session["_payment_intent_data"]["setup_future_usage"] == "off_session"


@pytest.mark.parametrize("settings", [{"stripe_automatic_tax": True}])
def test_stripe_adds_the_tax_when_it_is_asked_to(shop: Shop) -> None:
    shop.offer()
    assert shop.sold(credits=10 * CREDIT)["automatic_tax"]["enabled"] is True


def test_an_account_has_one_customer_however_often_it_is_asked_for(shop: Shop) -> None:
    shop.offer()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.checkout(credits=10 * CREDIT), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    customer = shop.account()["stripe_customer"]
    assert {session["customer"] for session in shop.sessions()} == {customer}
    assert len({order["id"] for order in shop.orders()}) == 12
    assert len({session["metadata"]["order_id"] for session in shop.sessions()}) == 12


def test_calls_at_once_make_one_customer_at_stripe(shop: Shop) -> None:
    made = Customers(shop.engine, StripeApi(KEY, shop.fake.url), now_ms=lambda: 0)
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: made.of("acme"), range(16)))
    (customer,) = shop.customers()
    assert names == {customer["id"]} == {shop.account()["stripe_customer"]}
    assert customer["metadata"] == {"account": "acme"}


def test_an_answer_that_got_lost_does_not_keep_an_account_without_a_customer(shop: Shop) -> None:
    clock = Clock()
    made = Customers(shop.engine, StripeApi(KEY, shop.fake.url), now_ms=clock)
    shop.fake.fault("error_after", path="/v1/customers")
    for _ in range(2):  # Stripe keeps its error under the key
        with pytest.raises(StripeAway):
            made.of("acme")
    clock.now += 60_000
    assert made.of("acme") == shop.account()["stripe_customer"]


def test_a_customer_that_the_account_has_already_is_kept(shop: Shop) -> None:
    customer, _ = shop.fake.customer()
    shop.control.put("/v1/accounts/acme", json={"stripe_customer": customer})
    shop.offer()
    assert shop.sold(credits=10 * CREDIT)["customer"] == customer
    assert len(shop.customers()) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "credits"),
        ({"credits": 10 * CREDIT, "offer": "pack"}, "credits"),
        ({"credits": 9 * CREDIT}, "credits"),
        ({"credits": 2**53 - 1}, "credits"),
        ({"credits": 10 * CREDIT, "currency": "chf"}, "credits"),
        ({"credits": 10 * CREDIT, "currency": "CHF"}, "currency"),
        ({"offer": "none"}, "offer"),
        ({"offer": "old"}, "offer"),
        ({"offer": "rate"}, "credits"),
        ({"offer": "pack", "currency": "eur"}, "currency"),
        ({"offer": "pack", "success_url": "ftp://x"}, "success_url"),
        ({"offer": "pack", "success_url": "javascript:alert(1)"}, "success_url"),
        ({"offer": "pack", "success_url": "https://a b"}, "success_url"),
        ({"offer": "pack", "success_url": None}, "success_url"),
        ({"offer": "pack", "cancel_url": "/back"}, "cancel_url"),
        ({"offer": "pack", "save_card": 1}, "save_card"),
        ({"offer": "pack", "price": 1}, "price"),
    ],
)
def test_what_is_not_for_sale_is_refused_and_leaves_no_order(
    shop: Shop, fields: dict[str, Any], param: str
) -> None:
    shop.offer()
    shop.offer("pack", is_rate=False, credits=12 * CREDIT, price=1_000)
    shop.offer("old", is_rate=False, price=1_000, is_active=False)
    refused(shop.checkout(**fields), 422, "invalid_request", param)
    assert (shop.orders(), shop.sessions()) == ([], [])


def test_with_rates_in_several_currencies_one_has_to_be_named(shop: Shop) -> None:
    refused(shop.checkout(credits=10 * CREDIT), 422, "invalid_request", "credits")
    shop.offer()
    shop.offer("yen", currency="jpy", price=150)
    response = shop.checkout(credits=10 * CREDIT)
    refused(response, 422, "invalid_request", "currency")
    assert "jpy, usd" in error_of(response)["message"]
    session = shop.sold(credits=10 * CREDIT, currency="jpy")
    assert (session["amount_total"], session["currency"]) == (1_500, "jpy")


def test_an_account_that_is_closed_or_unknown_or_full_buys_nothing(shop: Shop) -> None:
    shop.offer()
    refused(shop.checkout("nobody", credits=10 * CREDIT), 404, "account_not_found")
    grant = {"id": "g1", "amount": 2**53 - 1 - CREDIT, "category": "promo"}
    shop.control.post("/v1/accounts/acme/grants", json=grant)
    refused(shop.checkout(credits=10 * CREDIT), 422, "invalid_request")
    shop.control.post("/v1/accounts/acme/close", json={"reason": "left"})
    response = shop.checkout(credits=10 * CREDIT)
    refused(response, 403, "account_closed")
    assert error_of(response)["reason"] == "left"
    assert (shop.orders(), shop.customers()) == ([], [])


def test_a_suspended_account_may_pay_what_it_owes(shop: Shop) -> None:
    shop.offer()
    shop.control.post("/v1/accounts/acme/suspend", json={"reason": "below zero"})
    shop.sold(credits=10 * CREDIT)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/customers", "error_before"),
        ("/v1/customers", "rate_limit"),
        ("/v1/checkout/sessions", "error_before"),
        ("/v1/checkout/sessions", "error_after"),
        ("/v1/checkout/sessions", "conflict"),
    ],
)
def test_while_stripe_fails_it_is_a_503_and_the_next_time_it_works(
    shop: Shop, path: str, kind: str
) -> None:
    shop.offer()
    shop.fake.fault(kind, path=path, count=10)
    response = shop.checkout(credits=10 * CREDIT)
    refused(response, 503, "store_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert "Stripe" in error_of(response)["message"]
    shop.fake.http.post(f"{shop.fake.url}/_fake/faults/clear")
    session = shop.sold(credits=10 * CREDIT)
    shop.pay(session)
    assert shop.account()["balances"]["ledger"] == 10 * CREDIT


def test_a_slow_stripe_does_not_keep_its_own_webhooks_waiting(shop: Shop) -> None:
    shop.offer()
    shop.sold(credits=10 * CREDIT)
    shop.fake.fault("timeout_after", path="/v1/checkout/sessions", count=THREADS, seconds=4)
    payload = body_of(payment_succeeded())
    with ThreadPoolExecutor(2 * THREADS) as pool:
        ask = [pool.submit(shop.checkout, credits=10 * CREDIT) for _ in range(2 * THREADS)]
        eventually(lambda: len(shop.orders()) > THREADS // 2, "the first orders")
        delivered = shop.control.post("/stripe/webhook", content=payload, headers=signed(payload))
        assert delivered.status_code == 200
        assert not any(one.done() for one in ask)
        shop.fake.http.post(f"{shop.fake.url}/_fake/faults/clear")


def test_what_stripe_refuses_is_a_422_with_its_words(shop: Shop) -> None:
    shop.offer()
    shop.control.put("/v1/accounts/acme", json={"stripe_customer": "cus_deleted"})
    response = shop.checkout(credits=10 * CREDIT)
    refused(response, 422, "invalid_request")
    assert "cus_deleted" in error_of(response)["message"]


def test_the_portal_is_the_customers_own(shop: Shop) -> None:
    body = {"return_url": "https://shop.example/account"}
    response = shop.control.post("/v1/accounts/acme/portal", json=body)
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"url"}
    again = shop.control.post("/v1/accounts/acme/portal", json=body)
    assert again.json()["url"] != response.json()["url"]
    (session, _) = shop.fake.state.all("billing_portal.session")
    assert session["customer"] == shop.account()["stripe_customer"]
    assert session["return_url"] == body["return_url"]
    assert shop.fake.http.get(response.json()["url"]).status_code == 200
    nobody = shop.control.post("/v1/accounts/nobody/portal", json=body)
    refused(nobody, 404, "account_not_found")
    wrong = shop.control.post("/v1/accounts/acme/portal", json={"return_url": "x"})
    refused(wrong, 422, "invalid_request", "return_url")


def test_who_asked_for_a_page_is_in_the_log_of_actions_and_no_url_is(shop: Shop) -> None:
    shop.offer()
    shop.checkout(credits=25 * CREDIT)
    shop.control.post("/v1/accounts/acme/portal", json={"return_url": "https://x.example/?t=s3cr"})
    with shop.engine.connect() as c:
        rows = c.execute(select(control_actions).order_by(control_actions.c.id)).all()
    made = [(row.action, row.account, row.body) for row in rows[-2:]]
    assert made[0] == ("make_checkout", "acme", {"credits": 25 * CREDIT, "save_card": False} | NONE)
    assert made[1] == ("make_portal", "acme", {})
    assert [row.body.get("id") for row in rows if row.action == "put_offer"] == ["rate"]


def test_without_a_key_for_stripe_there_is_no_page(
    postgres_url: str, redis_url: str, engine: Engine
) -> None:
    with control_listener(postgres_url, redis_url) as control:
        for path in ("checkout", "portal"):
            response = control.post(f"/v1/accounts/acme/{path}", content=json.dumps(BODY))
            refused(response, 404, "not_found")
