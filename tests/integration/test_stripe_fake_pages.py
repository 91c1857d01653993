"""Checkout, the billing portal and the page of our fake Stripe."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.integration.fake_stripe import Fake, running


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


def session(fake: Fake, **fields: Any) -> stripe.checkout.Session:
    price_data = {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "Credits"}}
    params: Any = {
        "mode": "payment",
        "success_url": "http://127.0.0.1/thanks",
        "line_items": [{"quantity": 1, "price_data": price_data}],
        **fields,
    }
    return fake.client.v1.checkout.sessions.create(params)


def found(fake: Fake, made: stripe.checkout.Session) -> stripe.checkout.Session:
    return fake.client.v1.checkout.sessions.retrieve(made.id)


def pay(fake: Fake, made: stripe.checkout.Session, card: str = "pm_card_visa") -> Any:
    return fake.http.post(f"{fake.url}/_fake/checkout/{made.id}/pay", json={"payment_method": card})


def test_a_session_keeps_the_card_for_later_if_that_is_asked_for(fake: Fake) -> None:
    customer = fake.client.v1.customers.create().id
    made = session(
        fake, customer=customer, payment_intent_data={"setup_future_usage": "off_session"}
    )
    assert pay(fake, made).status_code == 200
    (card,) = fake.client.v1.customers.payment_methods.list(customer).data
    payment = fake.client.v1.payment_intents.retrieve(str(found(fake, made).payment_intent))
    assert (payment.customer, payment.payment_method) == (customer, card.id)


def test_tax_comes_on_top_of_what_is_sold(fake: Fake) -> None:
    fake.control("settings", tax_amount=190)
    made = session(fake, automatic_tax={"enabled": True})
    assert (made.amount_subtotal, made.amount_total) == (1000, 1190)
    assert made.total_details is not None
    assert made.total_details.amount_tax == 190
    pay(fake, made)
    payment = fake.client.v1.payment_intents.retrieve(str(found(fake, made).payment_intent))
    assert payment.amount_received == 1190


@pytest.mark.parametrize(
    ("card", "outcome", "payment_status"),
    [("pm_sepa_debit", "succeeded", "paid"), ("pm_sepa_debit_fail", "failed", "unpaid")],
)
def test_a_delayed_payment_completes_a_session_before_its_money_comes(
    fake: Fake, card: str, outcome: str, payment_status: str
) -> None:
    made = session(fake)
    pay(fake, made, card)
    shown = found(fake, made)
    assert (shown.status, shown.payment_status) == ("complete", "unpaid")
    assert fake.types()[-1] == "checkout.session.completed"
    fake.advance(days=3)
    assert fake.types()[-1] == f"checkout.session.async_payment_{outcome}"
    assert found(fake, made).payment_status == payment_status


def test_a_delayed_payment_can_be_settled_at_once(fake: Fake) -> None:
    made = session(fake)
    pay(fake, made, "pm_sepa_debit")
    fake.control(f"payments/{found(fake, made).payment_intent}/settle", paid=True)
    assert found(fake, made).payment_status == "paid"


def test_a_session_sells_a_subscription(fake: Fake) -> None:
    made = session(
        fake,
        mode="subscription",
        customer_email="a@example.com",
        line_items=[{"price": fake.price(2000), "quantity": 2}],
        subscription_data={"metadata": {"account": "acme"}},
    )
    assert made.amount_total == 4000
    declined = pay(fake, made, "pm_card_chargeDeclined")
    assert (declined.status_code, found(fake, made).status) == (402, "open")
    page = fake.http.post(str(made.url), data={"payment_method": "pm_card_chargeDeclined"})
    assert (page.status_code, "Your card was declined." in page.text) == (402, True)
    assert pay(fake, made).status_code == 200
    shown = fake.client.v1.checkout.sessions.retrieve(made.id, {"expand": ["subscription"]})
    assert (shown.status, shown.payment_status, shown.payment_intent) == ("complete", "paid", None)
    assert isinstance(shown.subscription, stripe.Subscription)
    assert shown.subscription.status == "active"
    assert shown.subscription.metadata.to_dict() == {"account": "acme"}
    assert shown.subscription.latest_invoice == shown.invoice
    assert shown.subscription.default_payment_method is not None
    assert shown.customer_details is not None
    assert shown.customer_details.email == "a@example.com"
    with pytest.raises(stripe.InvalidRequestError, match="do not go together"):
        session(fake, mode="payment", line_items=[{"price": fake.price()}])


def test_a_session_may_begin_a_trial_or_take_a_coupon(fake: Fake) -> None:
    lines = [{"price": fake.price(2000), "quantity": 1}]
    made = session(
        fake, mode="subscription", line_items=lines, subscription_data={"trial_period_days": 7}
    )
    assert made.amount_total == 0
    pay(fake, made)
    assert found(fake, made).payment_status == "no_payment_required"
    coupon = fake.client.v1.coupons.create({"percent_off": 50, "duration": "once"})
    made = session(fake, mode="subscription", line_items=lines, discounts=[{"coupon": coupon.id}])
    assert made.amount_total == 1000
    pay(fake, made)
    invoice = fake.client.v1.invoices.retrieve(str(found(fake, made).invoice))
    assert (invoice.total, invoice.subtotal) == (1000, 2000)


def test_sessions_are_listed_with_what_they_sell(fake: Fake) -> None:
    first, second = session(fake), session(fake)
    fake.client.v1.checkout.sessions.expire(first.id)
    listed = fake.client.v1.checkout.sessions.list()
    assert [each.id for each in listed.data] == [second.id, first.id]
    expired = fake.client.v1.checkout.sessions.list({"status": "expired"})
    assert [each.id for each in expired.data] == [first.id]
    (line,) = fake.client.v1.checkout.sessions.line_items.list(second.id).data
    assert (line.description, line.amount_total) == ("Credits", 1000)
    shown = fake.client.v1.checkout.sessions.retrieve(second.id, {"expand": ["line_items"]})
    assert shown.line_items is not None
    assert shown.line_items.data[0].id == line.id


def test_a_customer_changes_the_card_and_ends_a_subscription_in_the_portal(fake: Fake) -> None:
    customer, card = fake.customer()
    subscription = fake.subscribe(customer, fake.price())
    portal = fake.client.v1.billing_portal.sessions.create(
        {"customer": customer, "return_url": "http://127.0.0.1/account"}
    )
    page = fake.http.get(portal.url)
    assert (page.status_code, subscription.id in page.text) == (200, True)
    assert fake.http.post(portal.url, data={"card": "pm_card_mastercard"}).status_code == 200
    settings = fake.client.v1.customers.retrieve(customer).invoice_settings
    assert settings is not None
    assert settings.default_payment_method not in (None, card)
    assert fake.types()[-2:] == ["payment_method.attached", "customer.updated"]
    fake.http.post(portal.url, data={"subscription": subscription.id})
    assert fake.client.v1.subscriptions.retrieve(subscription.id).cancel_at_period_end
    other = fake.subscribe(fake.customer()[0], fake.price())
    assert fake.http.post(portal.url, data={"subscription": other.id}).status_code == 403


def press(fake: Fake, action: str, **fields: str) -> int:
    return fake.http.post(f"{fake.url}/do/{action}", data=fields).status_code


def test_the_page_shows_everything_escaped(fake: Fake) -> None:
    evil = "<script>alert(1)</script>\"'"
    customer = fake.client.v1.customers.create({"email": evil, "metadata": {evil[:30]: evil}})
    fake.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    fake.subscribe(fake.customer()[0], fake.price())
    page = fake.http.get(fake.url)
    assert page.status_code == 200
    assert "<script" not in page.text
    assert html.escape(evil) in page.text
    assert "customer.subscription.created" in page.text
    assert "http" not in page.text.replace("http-equiv", "")


def test_each_button_of_the_page_does_what_it_says(fake: Fake) -> None:
    customer, card = fake.customer()
    payment = fake.client.v1.payment_intents.create(
        {"amount": 1001, "currency": "usd", "confirm": True, "customer": customer,
         "payment_method": card}
    )  # fmt: skip
    subscription = fake.subscribe(customer, fake.price())
    before = fake.state.now()
    assert press(fake, "advance", seconds="3600") == 303
    assert fake.state.now() >= before + 3600
    assert press(fake, "fail", card=card) == 303
    assert fake.control(f"cards/{card}")["decline_code"] == "insufficient_funds"
    assert press(fake, "mend", card=card) == 303
    assert fake.control(f"cards/{card}")["decline_code"] is None
    assert press(fake, "refund", payment=payment.id, part="half") == 303
    assert press(fake, "refund", payment=payment.id, part="all") == 303
    refunds = fake.client.v1.refunds.list({"payment_intent": payment.id}).data
    assert [refund.amount for refund in refunds] == [500, 501]
    assert press(fake, "refund", payment=payment.id, part="all") == 400
    assert press(fake, "cancel", subscription=subscription.id) == 303
    assert press(fake, "cancel", subscription=subscription.id) == 400
    assert press(fake, "nothing") == 404


def test_disputes_are_opened_and_decided_by_buttons(fake: Fake) -> None:
    payment = fake.client.v1.payment_intents.create(
        {"amount": 1001, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
    )
    assert press(fake, "dispute", payment=payment.id, kind="chargeback") == 303
    (dispute,) = fake.client.v1.disputes.list().data
    assert press(fake, "dispute-step", dispute=dispute.id, step="win") == 303
    assert fake.client.v1.disputes.retrieve(dispute.id).status == "won"
    assert press(fake, "dispute-step", dispute=dispute.id, step="win") == 400
    assert dispute.id in fake.http.get(fake.url).text


def test_payments_that_wait_are_decided_by_buttons(fake: Fake) -> None:
    intents = fake.client.v1.payment_intents
    ids = [
        intents.create({"amount": 5, "currency": "usd", "confirm": True, "payment_method": card}).id
        for card in ("pm_sepa_debit", "pm_sepa_debit", "pm_card_authenticationRequired")
    ]
    assert "let it succeed" in fake.http.get(fake.url).text
    assert press(fake, "settle", payment=ids[0], paid="yes") == 303
    assert press(fake, "settle", payment=ids[1], paid="no") == 303
    assert press(fake, "authenticate", payment=ids[2]) == 303
    statuses = [intents.retrieve(id).status for id in ids]
    assert statuses == ["succeeded", "requires_payment_method", "succeeded"]
