"""Customers, cards, payments and charges at our fake Stripe, by the real client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stripe

from tests.integration.fake_stripe import Fake, running


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


def charge(
    fake: Fake, customer: str, method: str, amount: int = 1000, **options: bool
) -> stripe.PaymentIntent:
    return fake.client.v1.payment_intents.create(
        {
            "amount": amount,
            "currency": "usd",
            "confirm": True,
            "off_session": True,
            "customer": customer,
            "payment_method": method,
            "error_on_requires_action": True,
            "metadata": {"order_id": "o1"},
        }
    )


def test_a_customer_is_made_changed_and_found_again(fake: Fake) -> None:
    customers = fake.client.v1.customers
    made = customers.create({"email": "a@example.com", "metadata": {"account": "acme", "b": "c"}})
    changed = customers.update(made.id, {"name": "Acme", "metadata": {"b": "", "d": "e"}})
    assert (changed.name, changed.email) == ("Acme", "a@example.com")
    metadata = customers.retrieve(made.id).metadata
    assert metadata is not None
    assert metadata.to_dict() == {"account": "acme", "d": "e"}
    assert fake.types() == ["customer.created", "customer.updated"]
    before = fake.events()[1]["data"]["previous_attributes"]
    assert before == {"name": None, "metadata": {"account": "acme", "b": "c"}}


def test_a_card_is_attached_listed_made_the_default_and_detached(fake: Fake) -> None:
    customers, methods = fake.client.v1.customers, fake.client.v1.payment_methods
    customer = customers.create()
    card = methods.attach("pm_card_mastercard", {"customer": customer.id})
    assert card.id.startswith("pm_")
    assert card.card is not None
    assert (card.customer, card.card.brand) == (customer.id, "mastercard")
    customers.update(customer.id, {"invoice_settings": {"default_payment_method": card.id}})
    assert [m.id for m in methods.list({"customer": customer.id, "type": "card"}).data] == [card.id]
    assert [m.id for m in customers.payment_methods.list(customer.id).data] == [card.id]
    shown = customers.retrieve(customer.id, {"expand": ["invoice_settings.default_payment_method"]})
    assert shown.invoice_settings is not None
    assert isinstance(shown.invoice_settings.default_payment_method, stripe.PaymentMethod)

    other = customers.create()
    with pytest.raises(stripe.InvalidRequestError, match="already been attached"):
        methods.attach(card.id, {"customer": other.id})
    assert methods.detach(card.id).customer is None
    settings = customers.retrieve(customer.id).invoice_settings
    assert settings is not None
    assert settings.default_payment_method is None
    assert fake.events(kind="payment_method.detached")


def test_a_card_of_a_customer_is_charged_without_the_customer(fake: Fake) -> None:
    customer, method = fake.customer()
    payment = charge(fake, customer, method)
    assert (payment.status, payment.customer, payment.payment_method) == (
        "succeeded",
        customer,
        method,
    )
    other, _ = fake.customer()
    with pytest.raises(stripe.InvalidRequestError, match="another Customer"):
        charge(fake, other, method)
    with pytest.raises(stripe.InvalidRequestError) as missing:
        charge(fake, "cus_none", method)
    assert (missing.value.param, missing.value.code) == ("customer", "resource_missing")


@pytest.mark.parametrize(
    ("card", "code", "decline_code", "advice_code"),
    [
        ("chargeDeclined", "card_declined", "generic_decline", "try_again_later"),
        ("chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds",
         "try_again_later"),
        ("chargeDeclinedLostCard", "card_declined", "lost_card", "do_not_try_again"),
        ("chargeDeclinedStolenCard", "card_declined", "stolen_card", "do_not_try_again"),
        ("chargeDeclinedExpiredCard", "expired_card", "expired_card", "confirm_card_data"),
        ("chargeDeclinedDoNotTryAgain", "card_declined", "generic_decline", "do_not_try_again"),
        ("chargeDeclinedProcessingError", "processing_error", "processing_error",
         "try_again_later"),
        ("authenticationRequired", "authentication_required", "authentication_required", None),
    ],
)  # fmt: skip
def test_each_card_that_declines_says_why(
    fake: Fake, card: str, code: str, decline_code: str, advice_code: str | None
) -> None:
    customer, method = fake.customer(f"pm_card_{card}")
    with pytest.raises(stripe.CardError) as declined:
        charge(fake, customer, method)
    error = declined.value.error
    assert error is not None
    assert (declined.value.http_status, declined.value.code) == (402, code)
    assert error.decline_code == decline_code
    assert getattr(error, "advice_code", None) == advice_code
    assert error.payment_intent is not None
    payment = fake.client.v1.payment_intents.retrieve(error.payment_intent.id)
    assert (payment.status, payment.latest_charge) == ("requires_payment_method", error.charge)
    assert payment.last_payment_error is not None
    assert payment.last_payment_error.decline_code == decline_code
    assert fake.types()[-3:] == [
        "payment_intent.created",
        "charge.failed",
        "payment_intent.payment_failed",
    ]


def test_a_customer_who_is_there_is_asked_to_authenticate(fake: Fake) -> None:
    payment = fake.client.v1.payment_intents.create(
        {
            "amount": 500,
            "currency": "usd",
            "confirm": True,
            "payment_method": "pm_card_authenticationRequired",
        }
    )
    assert payment.status == "requires_action"
    assert fake.types()[-1] == "payment_intent.requires_action"
    fake.control(f"payments/{payment.id}/authenticate")
    assert fake.client.v1.payment_intents.retrieve(payment.id).status == "succeeded"


def test_the_bank_behind_an_attached_card_can_change_its_mind(fake: Fake) -> None:
    customer, method = fake.customer()
    fake.control(f"cards/{method}", decline_code="insufficient_funds")
    with pytest.raises(stripe.CardError):
        charge(fake, customer, method)
    fake.control(f"cards/{method}", decline_code=None)
    assert charge(fake, customer, method).status == "succeeded"


def test_the_fee_of_a_charge_is_known_a_moment_later(fake: Fake) -> None:
    customer, method = fake.customer()
    payment = charge(fake, customer, method, amount=1017)
    charges = fake.client.v1.charges
    assert charges.retrieve(str(payment.latest_charge)).balance_transaction is None
    fake.advance(2)
    told = fake.events(kind="charge.updated")[0]["data"]
    assert told["previous_attributes"] == {"balance_transaction": None}
    entry = fake.client.v1.balance_transactions.retrieve(told["object"]["balance_transaction"])
    assert (entry.amount, entry.fee, entry.net, entry.type) == (1017, 59, 958, "charge")
    assert (entry.currency, entry.source) == ("usd", payment.latest_charge)
    assert [detail.amount for detail in entry.fee_details] == [59]
    shown = charges.retrieve(str(payment.latest_charge), {"expand": ["balance_transaction"]})
    assert isinstance(shown.balance_transaction, stripe.BalanceTransaction)
    deep = fake.client.v1.payment_intents.retrieve(
        payment.id, {"expand": ["latest_charge.balance_transaction"]}
    )
    assert isinstance(deep.latest_charge, stripe.Charge)
    assert isinstance(deep.latest_charge.balance_transaction, stripe.BalanceTransaction)
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        charges.retrieve(str(payment.latest_charge), {"expand": ["nothing"]})


def test_payments_are_listed_by_customer_and_instant_with_cursors(fake: Fake) -> None:
    customer, method = fake.customer()
    other, other_method = fake.customer()
    ids = []
    for _ in range(5):
        ids.append(charge(fake, customer, method).id)
        fake.advance(10)
    charge(fake, other, other_method)
    intents = fake.client.v1.payment_intents
    assert len(intents.list().data) == 6
    mine = intents.list({"customer": customer, "limit": 2})
    assert ([p.id for p in mine.data], mine.has_more) == ([ids[4], ids[3]], True)
    assert [p.id for p in mine.auto_paging_iter()] == ids[::-1]
    back = intents.list({"customer": customer, "limit": 2, "ending_before": ids[0]})
    assert [p.id for p in back.data] == [ids[2], ids[1]]
    third = intents.retrieve(ids[2]).created
    assert [p.id for p in intents.list({"created": {"lt": third}}).data] == [ids[1], ids[0]]
    assert [p.id for p in intents.list({"created": third}).data] == [ids[2]]
    (found,) = fake.client.v1.charges.list({"payment_intent": ids[1]}).data
    assert found.payment_intent == ids[1]
    (expanded,) = fake.client.v1.charges.list(
        {"payment_intent": ids[1], "expand": ["data.payment_intent"]}
    ).data
    assert isinstance(expanded.payment_intent, stripe.PaymentIntent)


def test_a_payments_metadata_can_be_changed_at_any_time(fake: Fake) -> None:
    payment = charge(fake, *fake.customer())
    changed = fake.client.v1.payment_intents.update(payment.id, {"metadata": {"a": "b"}})
    assert changed.metadata.to_dict() == {"order_id": "o1", "a": "b"}


def test_a_delayed_payment_processes_until_it_is_settled(fake: Fake) -> None:
    customer, method = fake.customer("pm_sepa_debit")
    payment = charge(fake, customer, method)
    assert payment.status == "processing"
    fake.advance(days=3)
    assert fake.client.v1.payment_intents.retrieve(payment.id).status == "succeeded"
    customer, method = fake.customer("pm_sepa_debit_fail")
    payment = charge(fake, customer, method)
    fake.advance(days=3)
    assert fake.client.v1.payment_intents.retrieve(payment.id).status == "requires_payment_method"
    assert fake.types()[-2:] == ["charge.failed", "payment_intent.payment_failed"]
