"""Money that goes back at our fake Stripe: refunds, disputes, fraud warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.integration.fake_stripe import Fake, running


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


def paid(fake: Fake, card: str = "pm_card_visa") -> stripe.PaymentIntent:
    return fake.client.v1.payment_intents.create(
        {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": card}
    )


def charge_of(fake: Fake, payment: stripe.PaymentIntent) -> stripe.Charge:
    return fake.client.v1.charges.retrieve(str(payment.latest_charge))


def test_parts_of_a_charge_are_refunded_until_nothing_is_left(fake: Fake) -> None:
    payment, refunds = paid(fake), fake.client.v1.refunds
    first = refunds.create({"payment_intent": payment.id, "amount": 400})
    assert (first.status, first.amount, first.charge) == ("succeeded", 400, payment.latest_charge)
    assert fake.types()[-2:] == ["refund.created", "charge.refunded"]
    told = fake.events()[-1]["data"]
    assert told["object"]["amount_refunded"] == 400
    assert told["previous_attributes"] == {"amount_refunded": 0}
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded") as refused:
        refunds.create({"payment_intent": payment.id, "amount": 601})
    assert refused.value.param == "amount"
    rest = refunds.create(
        {"charge": str(payment.latest_charge), "reason": "fraudulent", "metadata": {"a": "b"}}
    )
    assert (rest.amount, rest.reason) == (600, "fraudulent")
    told = fake.events(kind="charge.refunded")[-1]["data"]["object"]
    assert (told["amount_refunded"], told["refunded"]) == (1000, True)
    with pytest.raises(stripe.InvalidRequestError) as again:
        refunds.create({"payment_intent": payment.id})
    assert again.value.code == "charge_already_refunded"
    listed = refunds.list({"payment_intent": payment.id}).data
    assert [refund.id for refund in listed] == [rest.id, first.id]
    assert len(refunds.list({"charge": "ch_other"}).data) == 0
    entry = fake.client.v1.balance_transactions.retrieve(str(rest.balance_transaction))
    assert (entry.amount, entry.fee, entry.type) == (-600, 0, "refund")
    charge = fake.client.v1.charges.retrieve(str(payment.latest_charge), {"expand": ["refunds"]})
    assert charge.refunds is not None
    assert [refund.id for refund in charge.refunds.data] == [rest.id, first.id]


def test_a_refund_may_fail_long_after_it_succeeded(fake: Fake) -> None:
    payment = paid(fake)
    refund = fake.client.v1.refunds.create({"payment_intent": payment.id})
    fake.control(
        f"refunds/{refund.id}/status", status="failed", failure_reason="lost_or_stolen_card"
    )
    failed = fake.client.v1.refunds.retrieve(refund.id)
    assert (failed.status, failed.failure_reason) == ("failed", "lost_or_stolen_card")
    assert fake.types()[-3:] == ["refund.failed", "refund.updated", "charge.refund.updated"]
    assert fake.events()[-1]["data"]["previous_attributes"] == {"status": "succeeded"}
    assert charge_of(fake, payment).amount_refunded == 0
    entry = fake.client.v1.balance_transactions.retrieve(str(failed.failure_balance_transaction))
    assert entry.amount == 1000


def test_a_refund_that_begins_pending_can_succeed_or_be_cancelled(fake: Fake) -> None:
    refunds = fake.client.v1.refunds
    refund = refunds.create({"payment_intent": paid(fake, "pm_card_pendingRefund").id})
    assert (refund.status, refund.balance_transaction) == ("pending", None)
    fake.control(f"refunds/{refund.id}/status", status="succeeded")
    assert refunds.retrieve(refund.id).balance_transaction is not None
    with pytest.raises(stripe.InvalidRequestError, match="cannot be canceled"):
        refunds.cancel(refund.id)
    fake.control("settings", refunds_begin="requires_action")
    other = refunds.create({"payment_intent": paid(fake).id})
    assert other.status == "requires_action"
    assert refunds.cancel(other.id).status == "canceled"


def dispute(fake: Fake, payment: stripe.PaymentIntent, **fields: Any) -> str:
    return str(fake.control("disputes", payment_intent=payment.id, **fields)["id"])


def step(fake: Fake, id: str, name: str) -> tuple[str, int, list[str]]:
    """Let a dispute go on; return its status, the sum of its money, and the new events."""
    before = len(fake.events())
    fake.control(f"disputes/{id}/{name}")
    shown = fake.client.v1.disputes.retrieve(id)
    total = sum(entry.amount for entry in shown.balance_transactions)
    types = [kind.removeprefix("charge.dispute.") for kind in fake.types(before)]
    return shown.status, total, types


def test_a_chargeback_takes_the_funds_and_a_won_one_gives_them_back(fake: Fake) -> None:
    payment = paid(fake)
    id = dispute(fake, payment)
    assert fake.types()[-2:] == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    shown = fake.client.v1.disputes.retrieve(id)
    assert (shown.status, shown.amount, shown.reason) == ("needs_response", 1000, "fraudulent")
    (entry,) = shown.balance_transactions
    assert (entry.amount, entry.fee, entry.type) == (-1000, 1500, "adjustment")
    assert charge_of(fake, payment).disputed
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        fake.client.v1.refunds.create({"payment_intent": payment.id})
    assert step(fake, id, "answer") == ("under_review", -1000, ["updated"])
    assert step(fake, id, "win") == ("won", 0, ["updated", "closed", "funds_reinstated"])
    assert [d.id for d in fake.client.v1.disputes.list({"payment_intent": payment.id}).data] == [id]


def test_a_lost_dispute_can_be_appealed_and_won(fake: Fake) -> None:
    id = dispute(fake, paid(fake), amount=300)
    assert step(fake, id, "lose") == ("lost", -300, ["updated", "closed"])
    assert step(fake, id, "appeal") == ("under_review", -300, ["updated"])
    assert step(fake, id, "win") == ("won", 0, ["updated", "closed", "funds_reinstated"])


def test_an_inquiry_takes_nothing_and_is_closed_or_becomes_a_chargeback(fake: Fake) -> None:
    id = dispute(fake, paid(fake), kind="inquiry")
    assert fake.types()[-1] == "charge.dispute.created"
    assert step(fake, id, "answer") == ("warning_under_review", 0, ["updated"])
    assert step(fake, id, "close") == ("warning_closed", 0, ["updated", "closed"])
    id = dispute(fake, paid(fake), kind="inquiry")
    assert step(fake, id, "withdraw") == ("needs_response", -1000, ["updated", "funds_withdrawn"])
    assert step(fake, id, "reinstate") == ("needs_response", 0, ["funds_reinstated"])


def test_a_dispute_can_be_given_up(fake: Fake) -> None:
    id = dispute(fake, paid(fake))
    assert fake.client.v1.disputes.close(id).status == "lost"


def test_an_early_fraud_warning_is_told_and_found(fake: Fake) -> None:
    payment = paid(fake)
    warning = fake.control("fraud-warnings", payment_intent=payment.id)
    assert fake.types()[-1] == "radar.early_fraud_warning.created"
    found = fake.client.v1.radar.early_fraud_warnings.retrieve(warning["id"])
    assert (found.charge, found.actionable) == (payment.latest_charge, True)
    assert found.payment_intent == payment.id
