"""Subscriptions at our fake Stripe on its clock, by the real client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.integration.fake_stripe import Fake, running

HOUR = 3_600
DAY = 86_400


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


def price(fake: Fake, amount: int = 2000, interval: str = "month") -> str:
    return fake.price(amount, interval)


def subscribe(
    fake: Fake, *prices: str, card: str = "pm_card_visa", **fields: Any
) -> stripe.Subscription:
    customer = fields.pop("customer", None) or fake.customer(card)[0]
    return fake.subscribe(customer, *(prices or (price(fake),)), **fields)


def subscription_of(id: str, fake: Fake) -> stripe.Subscription:
    return fake.client.v1.subscriptions.retrieve(id)


def status(fake: Fake, subscription: stripe.Subscription) -> str:
    return str(subscription_of(subscription.id, fake).status)


def latest(fake: Fake, subscription: stripe.Subscription) -> stripe.Invoice:
    id = subscription_of(subscription.id, fake).latest_invoice
    return fake.client.v1.invoices.retrieve(str(id))


def period(subscription: stripe.Subscription, number: int = 0) -> tuple[int, int]:
    item = subscription["items"].data[number]
    return item.current_period_start, item.current_period_end


def to_period_end(fake: Fake, subscription: stripe.Subscription) -> int:
    """Move the clock to the end of the current period."""
    end = period(subscription_of(subscription.id, fake))[1]
    return fake.advance(end - fake.state.now())


def test_a_first_invoice_that_is_paid_makes_a_subscription_active(fake: Fake) -> None:
    plan = price(fake)
    before = len(fake.events())
    subscription = subscribe(fake, plan, metadata={"account": "acme"})
    assert subscription.status == "active"
    start, end = period(subscription)
    assert datetime.fromtimestamp(end, UTC).day == datetime.fromtimestamp(start, UTC).day
    assert not hasattr(subscription, "current_period_end")
    invoice = latest(fake, subscription)
    assert (invoice.status, invoice.billing_reason) == ("paid", "subscription_create")
    assert (invoice.amount_paid, invoice.amount_due, invoice.total) == (2000, 2000, 2000)
    assert invoice.parent is not None
    details = invoice.parent.subscription_details
    assert details is not None
    assert (details.subscription, details.metadata.to_dict()) == (  # type: ignore[union-attr]
        subscription.id,
        {"account": "acme"},
    )
    (line,) = invoice.lines.data
    assert line.parent is not None
    assert line.pricing is not None
    item = line.parent.subscription_item_details
    assert item is not None
    assert (item.subscription_item, item.proration) == (subscription["items"].data[0].id, False)
    assert line.pricing.price_details is not None
    assert (line.pricing.price_details.price, line.quantity, line.amount) == (plan, 1, 2000)
    assert (line.period.start, line.period.end) == (start, end)
    types = [kind for kind in fake.types(before) if "subscription" in kind or "invoice" in kind]
    assert types == [
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice_payment.paid",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
    ]
    assert fake.events()[-1]["data"]["previous_attributes"] == {"status": "incomplete"}


def test_the_payment_of_a_subscription_says_nothing_of_us_nor_of_the_invoice(fake: Fake) -> None:
    invoice = latest(fake, subscribe(fake, metadata={"account": "acme"}))
    shown = fake.client.v1.invoices.retrieve(invoice.id, {"expand": ["payments"]})
    assert shown.payments is not None
    (tie,) = shown.payments.data
    payment = fake.client.v1.payment_intents.retrieve(str(tie.payment.payment_intent))
    assert (payment.status, payment.metadata.to_dict()) == ("succeeded", {})
    assert not hasattr(payment, "invoice")
    ties = fake.client.v1.invoice_payments.list(
        {"payment": {"type": "payment_intent", "payment_intent": payment.id}}
    )
    assert [each.invoice for each in ties.data] == [invoice.id]
    assert (tie.status, tie.amount_paid) == ("paid", 2000)


def test_a_renewal_moves_the_period_first_and_is_paid_an_hour_later(fake: Fake) -> None:
    subscription = subscribe(fake)
    _, end = period(subscription)
    before = len(fake.events())
    to_period_end(fake, subscription)
    renewed = subscription_of(subscription.id, fake)
    assert (renewed.status, period(renewed)[0]) == ("active", end)
    invoice = latest(fake, renewed)
    assert (invoice.status, invoice.billing_reason) == ("draft", "subscription_cycle")
    told = fake.events(before, "customer.subscription.updated")[0]["data"]
    assert told["previous_attributes"]["items"]["data"][0]["current_period_end"] == end
    fake.advance(HOUR)
    assert latest(fake, renewed).status == "paid"
    types = [kind for kind in fake.types(before) if not kind.startswith("charge.updated")]
    assert types == [
        "invoice.created",
        "customer.subscription.updated",
        "payment_intent.created",
        "invoice.finalized",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    paid = fake.events(before, "invoice.paid")[0]
    assert paid["created"] == end + HOUR
    assert paid["request"] == {"id": None, "idempotency_key": None}


def test_a_year_goes_by_in_one_step_of_the_clock(fake: Fake) -> None:
    subscription = subscribe(fake)
    fake.advance(days=366)
    invoices = fake.client.v1.invoices.list({"subscription": subscription.id, "limit": 100})
    assert [each.status for each in invoices.data] == ["paid"] * 13
    starts = [each.lines.data[0].period.start for each in invoices.data]
    assert starts == sorted(starts, reverse=True)
    assert len({*starts}) == 13
    instants = [event["created"] for event in fake.state.events]
    assert instants == sorted(instants)


def test_months_keep_the_day_of_their_anchor(fake: Fake) -> None:
    now = fake.state.now()
    january = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())
    fake.advance(january - now)
    subscription = subscribe(fake)
    days = []
    for _ in range(3):
        days.append(datetime.fromtimestamp(period(subscription)[1], UTC).day)
        to_period_end(fake, subscription)
        subscription = subscription_of(subscription.id, fake)
    assert days == [28, 31, 30]


def test_a_renewal_that_fails_is_tried_again_and_then_given_up(fake: Fake) -> None:
    customer, card = fake.customer()
    subscription = subscribe(fake, customer=customer)
    fake.control(f"cards/{card}", decline_code="insufficient_funds")
    to_period_end(fake, subscription)
    failed = fake.advance(HOUR)
    invoice = latest(fake, subscription)
    assert (status(fake, subscription), invoice.status) == ("past_due", "open")
    assert (invoice.attempt_count, invoice.next_payment_attempt) == (1, failed + 3 * DAY)
    assert "invoice.payment_failed" in fake.types()
    fake.advance(days=3)
    assert latest(fake, subscription).attempt_count == 2
    fake.advance(days=5)
    assert status(fake, subscription) == "past_due"
    fake.advance(days=7)
    assert latest(fake, subscription).attempt_count == 4
    assert status(fake, subscription) == "canceled"
    assert fake.types()[-1] == "customer.subscription.deleted"
    details = subscription_of(subscription.id, fake).cancellation_details
    assert details is not None
    assert details.reason == "payment_failed"


def test_a_card_that_is_mended_pays_at_the_next_retry(fake: Fake) -> None:
    customer, card = fake.customer()
    subscription = subscribe(fake, customer=customer)
    fake.control(f"cards/{card}", decline_code="generic_decline")
    to_period_end(fake, subscription)
    fake.advance(HOUR)
    fake.control(f"cards/{card}")
    fake.control(f"cards/{card}", decline_code=None)
    fake.advance(days=3)
    assert (status(fake, subscription), latest(fake, subscription).status) == ("active", "paid")


def test_an_unpaid_subscription_drafts_on_and_lives_again_when_it_is_paid(fake: Fake) -> None:
    fake.control("settings", after_retries="unpaid")
    customer, card = fake.customer()
    subscription = subscribe(fake, customer=customer)
    fake.control(f"cards/{card}", decline_code="generic_decline")
    to_period_end(fake, subscription)
    open_invoice = latest(fake, subscription)
    fake.advance(days=16)
    assert status(fake, subscription) == "unpaid"
    to_period_end(fake, subscription)
    fake.advance(days=1)
    assert latest(fake, subscription).status == "draft"
    with pytest.raises(stripe.CardError):
        fake.client.v1.invoices.pay(open_invoice.id)
    fake.control(f"cards/{card}", decline_code=None)
    assert fake.client.v1.invoices.pay(open_invoice.id).status == "paid"
    assert status(fake, subscription) == "active"


def test_a_first_payment_that_fails_leaves_it_incomplete_until_it_expires(fake: Fake) -> None:
    subscription = subscribe(fake, card="pm_card_chargeDeclined")
    assert (subscription.status, latest(fake, subscription).status) == ("incomplete", "open")
    other = subscribe(fake, card="pm_card_chargeDeclined")
    paid = fake.client.v1.invoices.pay(
        str(other.latest_invoice), {"payment_method": "pm_card_visa"}
    )
    assert (paid.status, status(fake, other)) == ("paid", "active")
    fake.advance(23 * HOUR)
    assert status(fake, subscription) == "incomplete_expired"
    assert latest(fake, subscription).status == "void"


def test_a_subscription_can_be_refused_or_wait_when_its_payment_fails(fake: Fake) -> None:
    with pytest.raises(stripe.CardError) as declined:
        subscribe(
            fake, card="pm_card_chargeDeclinedLostCard", payment_behavior="error_if_incomplete"
        )
    assert declined.value.code == "card_declined"
    assert fake.events(kind="customer.subscription.created") == []
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        subscribe(fake, customer=fake.client.v1.customers.create().id)
    waiting = subscribe(fake, payment_behavior="default_incomplete")
    assert waiting.status == "incomplete"
    shown = fake.client.v1.subscriptions.retrieve(
        waiting.id, {"expand": ["latest_invoice.confirmation_secret"]}
    )
    assert isinstance(shown.latest_invoice, stripe.Invoice)
    assert shown.latest_invoice.confirmation_secret is not None
    secret = shown.latest_invoice.confirmation_secret.client_secret
    fake.client.v1.payment_intents.confirm(
        secret.partition("_secret")[0], {"payment_method": "pm_card_visa"}
    )
    assert status(fake, waiting) == "active"


def test_a_trial_costs_nothing_and_then_becomes_a_paid_period(fake: Fake) -> None:
    subscription = subscribe(fake, trial_period_days=14)
    invoice = latest(fake, subscription)
    assert subscription.status == "trialing"
    assert (invoice.status, invoice.total, invoice.billing_reason) == (
        "paid",
        0,
        "subscription_create",
    )
    assert period(subscription)[1] == subscription.trial_end
    fake.advance(days=11)
    assert fake.types()[-1] == "customer.subscription.trial_will_end"
    fake.advance(days=3)
    assert status(fake, subscription) == "active"
    fake.advance(HOUR)
    invoice = latest(fake, subscription)
    assert (invoice.status, invoice.total, invoice.billing_reason) == (
        "paid",
        2000,
        "subscription_cycle",
    )
    assert invoice.lines.data[0].period.start == subscription.trial_end


def test_a_trial_without_a_card_pauses_and_is_resumed_with_a_card(fake: Fake) -> None:
    customer = fake.client.v1.customers.create().id
    subscription = subscribe(
        fake,
        customer=customer,
        trial_period_days=7,
        trial_settings={"end_behavior": {"missing_payment_method": "pause"}},
    )
    fake.advance(days=7)
    assert status(fake, subscription) == "paused"
    assert fake.types()[-1] == "customer.subscription.paused"
    card = fake.client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    fake.client.v1.subscriptions.update(subscription.id, {"default_payment_method": card.id})
    now = fake.advance(days=1)
    resumed = fake.client.v1.subscriptions.resume(subscription.id)
    assert (resumed.status, period(resumed)[0]) == ("active", now)
    assert latest(fake, subscription).amount_paid == 2000
    assert fake.types()[-1] == "customer.subscription.resumed"


def test_a_trial_can_be_ended_at_once(fake: Fake) -> None:
    subscription = subscribe(fake, trial_period_days=7)
    changed = fake.client.v1.subscriptions.update(subscription.id, {"trial_end": "now"})
    assert changed.status == "active"
    assert latest(fake, subscription).amount_paid == 2000
    assert changed.billing_cycle_anchor < (subscription.trial_end or 0)


def test_coupons_take_off_once_for_some_months_or_all(fake: Fake) -> None:
    coupons = fake.client.v1.coupons
    once = coupons.create({"percent_off": 25, "duration": "once"})
    months = coupons.create({"amount_off": 500, "currency": "usd", "duration": "repeating",
                             "duration_in_months": 2})  # fmt: skip
    free = coupons.create({"id": "FREE", "percent_off": 100, "duration": "forever"})

    def totals(coupon: str) -> list[int]:
        subscription = subscribe(fake, discounts=[{"coupon": coupon}])
        fake.advance(days=93)
        listed = fake.client.v1.invoices.list({"subscription": subscription.id})
        assert {each.status for each in listed.data} == {"paid"}
        return [each.total for each in listed.data][::-1]

    assert totals(once.id) == [1500, 2000, 2000, 2000]
    assert totals(months.id) == [1500, 1500, 2000, 2000]
    assert totals(free.id) == [0, 0, 0, 0]


def test_a_subscription_ends_at_once_or_with_its_period(fake: Fake) -> None:
    subscriptions = fake.client.v1.subscriptions
    first, second = subscribe(fake), subscribe(fake)
    assert subscriptions.cancel(first.id).status == "canceled"
    assert fake.types()[-1] == "customer.subscription.deleted"
    changed = subscriptions.update(second.id, {"cancel_at_period_end": True})
    assert (changed.status, changed.cancel_at) == ("active", period(changed)[1])
    told = fake.events()[-1]
    assert told["data"]["previous_attributes"]["cancel_at_period_end"] is False
    to_period_end(fake, second)
    assert status(fake, second) == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        subscriptions.update(second.id, {"metadata": {"a": "b"}})


def test_subscriptions_are_listed_by_customer_and_status(fake: Fake) -> None:
    subscriptions = fake.client.v1.subscriptions
    customer, _ = fake.customer()
    first, second = subscribe(fake, customer=customer), subscribe(fake, customer=customer)
    subscribe(fake)
    subscriptions.cancel(first.id)
    assert [s.id for s in subscriptions.list({"customer": customer}).data] == [second.id]
    everything = subscriptions.list({"customer": customer, "status": "all"})
    assert [s.id for s in everything.data] == [second.id, first.id]
    assert [s.id for s in subscriptions.list({"status": "canceled"}).data] == [first.id]


def test_several_items_renew_each_in_its_own_rhythm(fake: Fake) -> None:
    subscription = subscribe(fake, price(fake, 1000), price(fake, 9000, "year"))
    assert latest(fake, subscription).total == 10_000
    to_period_end(fake, subscription)
    fake.advance(HOUR)
    assert latest(fake, subscription).total == 1000
    renewed = subscription_of(subscription.id, fake)
    assert period(renewed, 1) == period(subscription, 1)


def test_a_paused_collection_voids_or_keeps_the_renewals(fake: Fake) -> None:
    subscription = subscribe(fake)
    for behavior, expected in (
        ("void", "void"),
        ("keep_as_draft", "draft"),
        ("mark_uncollectible", "uncollectible"),
    ):
        pause = {"pause_collection": {"behavior": behavior}}
        fake.client.v1.subscriptions.update(subscription.id, pause)  # type: ignore[arg-type]
        to_period_end(fake, subscription)
        fake.advance(2 * HOUR)
        assert latest(fake, subscription).status == expected
    fake.client.v1.subscriptions.update(subscription.id, {"pause_collection": ""})
    to_period_end(fake, subscription)
    fake.advance(HOUR)
    assert latest(fake, subscription).status == "paid"


def test_a_subscription_is_paused_on_request_and_resumed(fake: Fake) -> None:
    subscription = subscribe(fake)
    paused = fake.client.v1.subscriptions.pause(subscription.id)
    assert paused.status == "paused"
    to_period_end(fake, subscription)
    fake.advance(HOUR)
    assert len(fake.client.v1.invoices.list({"subscription": subscription.id}).data) == 1
    assert fake.client.v1.subscriptions.resume(subscription.id).status == "active"


def test_a_delayed_first_payment_that_fails_leaves_the_subscription_behind(fake: Fake) -> None:
    subscription = subscribe(fake, card="pm_sepa_debit_fail")
    assert (subscription.status, latest(fake, subscription).status) == ("active", "open")
    fake.advance(days=3)
    assert "invoice.payment_failed" in fake.types()
    good = subscribe(fake, card="pm_sepa_debit")
    fake.advance(days=3)
    assert (status(fake, good), latest(fake, good).status) == ("active", "paid")
