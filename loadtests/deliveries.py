"""Webhook deliveries as Stripe makes them: new events, old ones again, and what is not Stripe's."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

CREDITS: Final = 1_000_000
"""What one top-up buys, in microcredits."""

_IGNORED_TYPES: Final = ("charge.succeeded", "customer.created", "payment_intent.created")
_REMEMBERED: Final = 1_000


class Kind(StrEnum):
    """What is delivered."""

    TOP_UP = "new top-up"
    DUPLICATE = "duplicate"
    IGNORED = "ignored type"
    FORGED = "bad signature"


MIX: Final = {Kind.TOP_UP: 2, Kind.DUPLICATE: 4, Kind.IGNORED: 1, Kind.FORGED: 3}
"""How often each kind comes."""

EXPECTED: Final = {kind: 400 if kind is Kind.FORGED else 200 for kind in Kind}
"""The status that each kind is answered with."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One body and whose it is."""

    kind: Kind
    body: bytes
    account: str


class Deliveries:
    """An endless mix of deliveries; `keep` is told which were stored, for the duplicates."""

    def __init__(self, accounts: Sequence[str], seed: int = 0) -> None:
        self._accounts = accounts
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._stored: deque[Delivery] = deque(maxlen=_REMEMBERED)

    def next(self) -> Delivery:
        """Return the next one; a duplicate is of any of the last thousand that were stored."""
        (kind,) = self._chance.choices(list(MIX), list(MIX.values()))
        if kind is Kind.DUPLICATE and self._stored:
            again = self._chance.choice(self._stored)
            return Delivery(Kind.DUPLICATE, again.body, again.account)
        if kind is Kind.IGNORED:
            type = self._chance.choice(_IGNORED_TYPES)
            return self._new(kind, type, {"object": type.partition(".")[0]})
        kind = kind if kind is Kind.FORGED else Kind.TOP_UP
        payment = {
            "object": "payment_intent",
            "status": "succeeded",
            "amount": 1000,
            "amount_received": 1000,
            "currency": "usd",
        }
        return self._new(kind, "payment_intent.succeeded", payment)

    def keep(self, delivery: Delivery) -> None:
        """Remember one that was stored."""
        self._stored.append(delivery)

    def _new(self, kind: Kind, type: str, subject: dict[str, Any]) -> Delivery:
        number = next(self._numbers)
        account = self._accounts[number % len(self._accounts)]
        metadata = {"purpose": "topup", "account": account, "credits": str(CREDITS)}
        event = {
            "id": f"evt_flood_{number}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": int(time.time()),
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": type,
            "data": {"object": {"id": f"obj_flood_{number}", **subject, "metadata": metadata}},
        }
        return Delivery(kind, json.dumps(event, indent=2).encode(), account)


def message(delivery: Delivery, host: str, secret: str) -> bytes:
    """Return the HTTP request of a delivery, signed now; a forged one with another secret."""
    at, body = int(time.time()), delivery.body
    key = "whsec_of_somebody_else" if delivery.kind is Kind.FORGED else secret
    mac = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    head = (
        f"POST /stripe/webhook HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"Stripe-Signature: t={at},v1={mac}\r\n\r\n"
    )
    return head.encode() + body
