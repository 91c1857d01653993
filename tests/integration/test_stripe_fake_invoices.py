"""Invoices at our fake Stripe, and the changes of subscriptions that they follow from."""

from __future__ import annotations

from collections.abc import Iterator
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


def half_a_month_in(fake: Fake, *prices: str, **fields: Any) -> tuple[stripe.Subscription, int]:
    """Subscribe and go to the middle of the first period; return how long a period is."""
    subscription = fake.subscribe(fake.customer()[0], *prices, **fields)
    item = subscription["items"].data[0]
    length = item.current_period_end - item.current_period_start
    fake.advance(length / 2 - (fake.state.now() - item.current_period_start))
    return subscription, length


def change(fake: Fake, subscription: stripe.Subscription, **fields: Any) -> stripe.Subscription:
    params: Any = fields
    return fake.client.v1.subscriptions.update(subscription.id, params)


def item_of(subscription: stripe.Subscription, number: int = 0) -> str:
    return str(subscription["items"].data[number].id)


def invoices(fake: Fake, subscription: stripe.Subscription) -> list[stripe.Invoice]:
    """Return the invoices of a subscription, the newest one first."""
    return fake.client.v1.invoices.list({"subscription": subscription.id}).data


def amounts(invoice: stripe.Invoice) -> list[tuple[int, bool]]:
    """Return each line's amount and whether it is a proration."""
    found = []
    for line in invoice.lines.data:
        assert line.parent is not None
        assert line.parent.subscription_item_details is not None
        found.append((line.amount, line.parent.subscription_item_details.proration))
    return found


def test_an_upgrade_that_is_invoiced_at_once_costs_the_rest_of_the_period(fake: Fake) -> None:
    small, large = fake.price(1000), fake.price(3000)
    subscription, length = half_a_month_in(fake, small)
    before = len(fake.events())
    changed = change(
        fake,
        subscription,
        items=[{"id": item_of(subscription), "price": large}],
        proration_behavior="always_invoice",
    )
    item = changed["items"].data[0]
    assert (item.id, item.price.id) == (item_of(subscription), large)
    assert item.current_period_end - item.current_period_start == length
    invoice = invoices(fake, subscription)[0]
    assert (invoice.billing_reason, invoice.status) == ("subscription_update", "paid")
    assert amounts(invoice) == [(-500, True), (1500, True)]
    assert (invoice.total, invoice.amount_paid) == (1000, 1000)
    line = invoice.lines.data[0]
    assert line.period.end == item.current_period_end
    assert line.period.start == fake.events(before)[0]["created"]
    told = fake.events(before, "customer.subscription.updated")[0]["data"]["previous_attributes"]
    assert told["items"]["data"][0]["price"]["id"] == small


def test_prorations_wait_for_the_renewal_unless_they_are_invoiced_at_once(fake: Fake) -> None:
    plan = fake.price(1000)
    subscription, length = half_a_month_in(fake, plan)
    change(fake, subscription, items=[{"id": item_of(subscription), "quantity": 3}])
    assert len(invoices(fake, subscription)) == 1
    fake.advance(length / 2 + HOUR)
    renewal = invoices(fake, subscription)[0]
    assert renewal.billing_reason == "subscription_cycle"
    assert amounts(renewal) == [(-500, True), (1500, True), (3000, False)]
    change(
        fake,
        subscription,
        items=[{"id": item_of(subscription), "quantity": 1}],
        proration_behavior="none",
    )
    fake.advance(days=31)
    assert amounts(invoices(fake, subscription)[0]) == [(1000, False)]


def test_a_downgrade_becomes_a_credit_that_the_next_invoice_uses(fake: Fake) -> None:
    small, large = fake.price(1000), fake.price(3000)
    subscription, length = half_a_month_in(fake, large)
    change(
        fake,
        subscription,
        items=[{"id": item_of(subscription), "price": small}],
        proration_behavior="always_invoice",
    )
    credit = invoices(fake, subscription)[0]
    assert (credit.status, credit.total, credit.amount_due) == ("paid", -1000, 0)
    assert fake.client.v1.customers.retrieve(str(credit.customer)).balance == -1000
    fake.advance(length / 2 + HOUR)
    renewal = invoices(fake, subscription)[0]
    assert (renewal.total, renewal.amount_due, renewal.ending_balance) == (1000, 0, 0)
    assert renewal.status == "paid"


def test_items_are_added_and_removed(fake: Fake) -> None:
    plan, seat = fake.price(1000), fake.price(400)
    subscription, _ = half_a_month_in(fake, plan)
    changed = change(
        fake, subscription, items=[{"price": seat, "quantity": 2}],
        proration_behavior="always_invoice",
    )  # fmt: skip
    assert [item.quantity for item in changed["items"].data] == [1, 2]
    ends = {item.current_period_end for item in changed["items"].data}
    assert len(ends) == 1
    assert amounts(invoices(fake, subscription)[0]) == [(400, True)]
    removed = change(
        fake, subscription, items=[{"id": item_of(subscription), "deleted": True}],
        proration_behavior="none",
    )  # fmt: skip
    assert [item.price.id for item in removed["items"].data] == [seat]
    listed = fake.client.v1.subscription_items.list({"subscription": subscription.id})
    assert [item.price.id for item in listed.data] == [seat]
    with pytest.raises(stripe.InvalidRequestError, match="at least one item"):
        change(fake, subscription, items=[{"id": item_of(removed), "deleted": True}])
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription item"):
        change(fake, subscription, items=[{"id": "si_none", "quantity": 2}])


def test_another_interval_begins_a_new_period_that_is_paid_at_once(fake: Fake) -> None:
    month, year = fake.price(1000), fake.price(9000, "year")
    subscription, _ = half_a_month_in(fake, month)
    changed = change(fake, subscription, items=[{"id": item_of(subscription), "price": year}])
    item, invoice = changed["items"].data[0], invoices(fake, subscription)[0]
    assert item.current_period_end - item.current_period_start >= 365 * DAY
    assert amounts(invoice) == [(-500, True), (9000, False)]
    assert (invoice.billing_reason, invoice.status) == ("subscription_update", "paid")


def test_a_change_that_cannot_be_paid_leaves_it_behind_or_is_refused(fake: Fake) -> None:
    small, large = fake.price(1000), fake.price(3000)
    customer, card = fake.customer()
    subscription = fake.subscribe(customer, small)
    fake.control(f"cards/{card}", decline_code="insufficient_funds")
    items = [{"id": item_of(subscription), "price": large}]
    fields = {"items": items, "proration_behavior": "always_invoice"}
    with pytest.raises(stripe.CardError):
        change(fake, subscription, payment_behavior="error_if_incomplete", **fields)
    unchanged = fake.client.v1.subscriptions.retrieve(subscription.id)
    assert unchanged["items"].data[0].price.id == small
    assert change(fake, subscription, **fields).status == "past_due"
    assert invoices(fake, subscription)[0].next_payment_attempt is not None


def test_more_than_ten_lines_are_listed_apart(fake: Fake) -> None:
    prices = [fake.price(100 + number) for number in range(12)]
    subscription = fake.subscribe(fake.customer()[0], *prices)
    invoice = fake.client.v1.invoices.retrieve(str(subscription.latest_invoice))
    assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
    lines = fake.client.v1.invoices.line_items.list(invoice.id, {"limit": 5})
    assert [line.amount for line in lines.data] == [100, 101, 102, 103, 104]
    assert [line.amount for line in lines.auto_paging_iter()] == [*range(100, 112)]
    assert sum(line.amount for line in lines.auto_paging_iter()) == invoice.total


def test_an_open_invoice_is_voided_written_off_or_paid_elsewhere(fake: Fake) -> None:
    plan, api = fake.price(), fake.client.v1.invoices
    customer, card = fake.customer()
    fake.control(f"cards/{card}", decline_code="generic_decline")
    ids = [str(fake.subscribe(customer, plan).latest_invoice) for _ in range(3)]
    assert api.void_invoice(ids[0]).status == "void"
    assert api.mark_uncollectible(ids[1]).status == "uncollectible"
    outside = api.pay(ids[2], {"paid_out_of_band": True})
    assert (outside.status, fake.types()[-1]) == ("paid", "customer.subscription.updated")
    assert len(fake.events(kind="invoice.voided")) == 1
    assert len(fake.events(kind="invoice.marked_uncollectible")) == 1
    with pytest.raises(stripe.InvalidRequestError, match="must be open"):
        api.void_invoice(ids[2])
    assert [i.id for i in api.list({"customer": customer, "status": "void"}).data] == [ids[0]]


def test_a_threshold_invoice_is_paid_in_mid_period(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer()[0], fake.price())
    fake.control(f"subscriptions/{subscription.id}/threshold-invoice", amount=700)
    invoice = invoices(fake, subscription)[0]
    assert (invoice.billing_reason, invoice.status) == ("subscription_threshold", "paid")
    assert invoice.amount_paid == 700


def test_an_invoice_made_by_hand_has_no_subscription(fake: Fake) -> None:
    customer, _ = fake.customer()
    fake.client.v1.invoice_items.create({"customer": customer, "amount": 900, "currency": "usd"})
    draft = fake.client.v1.invoices.create({"customer": customer})
    assert (draft.status, draft.billing_reason, draft.parent) == ("draft", "manual", None)
    opened = fake.client.v1.invoices.finalize_invoice(draft.id)
    assert (opened.status, opened.amount_due) == ("open", 900)
    assert fake.client.v1.invoices.pay(draft.id).status == "paid"


def test_a_bank_that_asks_for_authentication_holds_a_renewal_up(fake: Fake) -> None:
    customer, card = fake.customer()
    subscription = fake.subscribe(customer, fake.price())
    fake.control(f"cards/{card}", asks_for_authentication=True)
    fake.advance(days=32)
    assert "invoice.payment_action_required" in fake.types()
    assert fake.client.v1.subscriptions.retrieve(subscription.id).status == "past_due"
    invoice = fake.client.v1.invoices.retrieve(
        invoices(fake, subscription)[0].id, {"expand": ["payments"]}
    )
    assert invoice.payments is not None
    payment = invoice.payments.data[0].payment.payment_intent
    fake.control(f"payments/{payment}/authenticate")
    assert fake.client.v1.subscriptions.retrieve(subscription.id).status == "active"


def test_a_new_anchor_credits_what_is_left_and_begins_a_period(fake: Fake) -> None:
    subscription, _ = half_a_month_in(fake, fake.price(1000))
    changed = change(fake, subscription, billing_cycle_anchor="now")
    assert changed["items"].data[0].current_period_start == fake.state.now()
    assert amounts(invoices(fake, subscription)[0]) == [(-500, True), (1000, False)]


def test_an_invoice_that_only_its_customer_tries_gives_nothing_up(fake: Fake) -> None:
    customer, card = fake.customer()
    subscription = fake.subscribe(customer, fake.price())
    change(fake, subscription, pause_collection={"behavior": "keep_as_draft"})
    fake.advance(days=32)
    fake.control(f"cards/{card}", decline_code="generic_decline")
    with pytest.raises(stripe.CardError):
        fake.client.v1.invoices.pay(invoices(fake, subscription)[0].id)
    assert fake.client.v1.subscriptions.retrieve(subscription.id).status == "active"


def test_a_change_may_wait_for_its_payment(fake: Fake) -> None:
    subscription = fake.subscribe(fake.customer()[0], fake.price(1000))
    change(
        fake,
        subscription,
        items=[{"id": item_of(subscription), "quantity": 2}],
        proration_behavior="always_invoice",
        payment_behavior="default_incomplete",
    )
    invoice = invoices(fake, subscription)[0]
    assert (invoice.status, invoice.amount_due) == ("open", 1000)
    assert fake.client.v1.invoices.pay(invoice.id).status == "paid"
