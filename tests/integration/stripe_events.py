"""Events as Stripe sends them, and the signature of their delivery."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
from typing import Any

from tests.integration.control_client import WEBHOOK_SECRET

_numbers = itertools.count(1)


def payment_succeeded(
    payment: str = "pi_1", account: str = "acme", credits: Any = "10000000", **metadata: Any
) -> dict[str, Any]:
    """Return a `payment_intent.succeeded` of a top-up, under a new event id."""
    subject = {
        "id": payment,
        "object": "payment_intent",
        "status": "succeeded",
        "amount_received": 1000,
        "currency": "usd",
        "metadata": {"purpose": "topup", "account": account, "credits": credits} | metadata,
    }
    return event("payment_intent.succeeded", subject)


def session_completed(
    payment: str = "pi_1",
    account: str = "acme",
    credits: Any = "10000000",
    kind: str = "checkout.session.completed",
    **fields: Any,
) -> dict[str, Any]:
    """Return an event of a Checkout session about a payment, under a new event id."""
    subject = {
        "id": f"cs_of_{payment}",
        "object": "checkout.session",
        "mode": "payment",
        "payment_status": "paid",
        "payment_intent": payment,
        "amount_total": 1000,
        "currency": "usd",
        "metadata": {"purpose": "topup", "account": account, "credits": credits},
    }
    return event(kind, subject | fields)


def refund_of(
    payment: str = "pi_1",
    amount: int = 250,
    status: str = "succeeded",
    id: str = "re_1",
    kind: str = "refund.updated",
    **fields: Any,
) -> dict[str, Any]:
    """Return an event about a refund of a payment, under a new event id."""
    subject = {
        "id": id,
        "object": "refund",
        "payment_intent": payment,
        "charge": f"ch_of_{payment}",
        "amount": amount,
        "currency": "usd",
        "status": status,
        "created": 1_800_000_000,
    }
    return event(kind, subject | fields)


def order_paid(
    order: str, amount: int = 1000, payment: str = "pi_1", **fields: Any
) -> dict[str, Any]:
    """Return a `payment_intent.succeeded` that names an order of ours."""
    subject = {
        "id": payment,
        "object": "payment_intent",
        "status": "succeeded",
        "amount_received": amount,
        "currency": "usd",
        "latest_charge": f"ch_of_{payment}",
        "customer": "cus_1",
        "metadata": {"purpose": "topup", "order_id": order, "account": "acme"},
    }
    return event("payment_intent.succeeded", subject | fields)


def event(kind: str, subject: dict[str, Any], id: str | None = None) -> dict[str, Any]:
    """Return an event about `subject`."""
    return {
        "id": id or f"evt_{next(_numbers)}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        "data": {"object": subject},
    }


def signed(payload: bytes, secret: str = WEBHOOK_SECRET, age_seconds: int = 0) -> dict[str, str]:
    """Return the headers of a delivery of these bytes."""
    at = int(time.time()) - age_seconds
    mac = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256)
    return {
        "Stripe-Signature": f"t={at},v1={mac.hexdigest()}",
        "Content-Type": "application/json; charset=utf-8",
    }


def body_of(event: dict[str, Any]) -> bytes:
    """Return an event as the bytes of a delivery."""
    return json.dumps(event, indent=2).encode()
