"""PaymentIntents, charges, and what becomes of their money: balance, refunds, disputes."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.shapes import new
from sidecar.dev.fake_stripe.state import Cause, Object, State

_PAYMENT_INTENT: Final[Object] = {
    "object": "payment_intent",
    "amount_capturable": 0,
    "amount_details": {"tip": {}},
    "amount_received": 0,
    "application": None,
    "application_fee_amount": None,
    "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
    "canceled_at": None,
    "cancellation_reason": None,
    "capture_method": "automatic_async",
    "confirmation_method": "automatic",
    "customer": None,
    "customer_account": None,
    "description": None,
    "excluded_payment_method_types": None,
    "last_payment_error": None,
    "latest_charge": None,
    "metadata": {},
    "next_action": None,
    "on_behalf_of": None,
    "payment_method": None,
    "payment_method_configuration_details": None,
    "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
    "payment_method_types": ["card"],
    "processing": None,
    "receipt_email": None,
    "review": None,
    "setup_future_usage": None,
    "shipping": None,
    "source": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "requires_payment_method",
    "transfer_data": None,
    "transfer_group": None,
}

_CHARGE: Final[Object] = {
    "object": "charge",
    "amount_captured": 0,
    "amount_refunded": 0,
    "application": None,
    "application_fee": None,
    "application_fee_amount": None,
    # The fee is known a moment later: Stripe tells it with `charge.updated`.
    "balance_transaction": None,
    "billing_details": {
        "address": None,
        "email": None,
        "name": None,
        "phone": None,
        "tax_id": None,
    },
    "calculated_statement_descriptor": "CREDIT SIDECAR DEV",
    "captured": False,
    "disputed": False,
    "failure_balance_transaction": None,
    "failure_code": None,
    "failure_message": None,
    "fraud_details": {},
    "on_behalf_of": None,
    "outcome": None,
    "paid": False,
    "payment_method_details": {
        "card": {"brand": "visa", "country": "US", "funding": "credit", "last4": "4242"},
        "type": "card",
    },
    "receipt_email": None,
    "receipt_number": None,
    "receipt_url": None,
    "refunded": False,
    "review": None,
    "shipping": None,
    "source": None,
    "source_transfer": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "pending",
    "transfer_data": None,
    "transfer_group": None,
}

_BALANCE_TRANSACTION: Final[Object] = {
    "object": "balance_transaction",
    "balance_type": "payments",
    "description": None,
    "exchange_rate": None,
    "fee_details": [],
    "status": "available",
}

_REFUND: Final[Object] = {
    "object": "refund",
    "balance_transaction": None,
    "customer_account": None,
    "destination_details": {"card": {"type": "refund"}, "type": "card"},
    "metadata": {},
    "reason": None,
    "receipt_number": None,
    "source_transfer_reversal": None,
    "status": "succeeded",
    "transfer_reversal": None,
}

_DISPUTE: Final[Object] = {
    "object": "dispute",
    "balance_transactions": [],
    "enhanced_eligibility_types": [],
    "evidence": {},
    "is_charge_refundable": True,
    "metadata": {},
    "reason": "general",
}

_FRAUD_WARNING: Final[Object] = {"object": "radar.early_fraud_warning", "actionable": True}


def payment_intent(state: State, amount: int, currency: str, cause: Cause, **fields: Any) -> Object:
    """Return a PaymentIntent that waits for a payment method; `amount` in minor units."""
    payment = new(state, "pi", _PAYMENT_INTENT, cause, amount=amount, currency=currency)
    payment["client_secret"] = f"{payment['id']}_secret_{state.new_id('')[1:]}"
    return payment | fields


def charge(state: State, payment: Object, cause: Cause) -> Object:
    """Return a charge of a PaymentIntent that has been tried and not decided."""
    return new(
        state,
        "ch",
        _CHARGE,
        cause,
        amount=payment["amount"],
        currency=payment["currency"],
        customer=payment["customer"],
        description=payment["description"],
        metadata=dict(payment["metadata"]),
        payment_intent=payment["id"],
        payment_method=payment["payment_method"],
    )


def balance_transaction(
    state: State, source: Object, kind: str, amount: int, fee: int, category: str
) -> Object:
    """Return an entry of the balance; `amount` and `fee` in minor units."""
    what = "Dispute fee" if kind == "adjustment" else "Stripe processing fees"
    details = {"application": None, "description": what, "type": "stripe_fee"}
    thing = new(state, "txn", _BALANCE_TRANSACTION, Cause(livemode=source.get("livemode", False)))
    # The only object without a mode of its own.
    del thing["livemode"]
    return thing | {
        "amount": amount,
        "available_on": state.now(),
        "currency": source["currency"],
        "fee": fee,
        "fee_details": [details | {"amount": fee, "currency": source["currency"]}] if fee else [],
        "net": amount - fee,
        "reporting_category": category,
        "source": source["id"],
        "type": kind,
    }


def refund(state: State, charge: Object, amount: int, cause: Cause, **fields: Any) -> Object:
    """Return a refund of a part of a charge; `amount` in minor units."""
    thing = new(state, "re", _REFUND, cause, amount=amount, currency=charge["currency"])
    # A refund has no mode of its own; here its charge's goes into the events about it.
    thing["_livemode"] = thing.pop("livemode")
    return thing | {
        "charge": charge["id"],
        "customer": charge["customer"],
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        **fields,
    }


def dispute(state: State, charge: Object, amount: int, status: str, reason: str) -> Object:
    """Return a dispute about a part of a charge; `amount` in minor units."""
    case = "inquiry" if status.startswith("warning") else "chargeback"
    thing = new(state, "dp", _DISPUTE, Cause(livemode=charge["livemode"]))
    return thing | {
        "amount": amount,
        "charge": charge["id"],
        "currency": charge["currency"],
        "evidence_details": {
            "due_by": state.now() + 7 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": case,
                "network": "visa",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": status,
    }


def fraud_warning(state: State, charge: Object, fraud_type: str) -> Object:
    """Return an early fraud warning about a charge."""
    thing = new(state, "issfr", _FRAUD_WARNING, Cause(livemode=charge["livemode"]))
    return thing | {
        "charge": charge["id"],
        "fraud_type": fraud_type,
        "payment_intent": charge["payment_intent"],
    }
