"""Signatures of outgoing webhooks, by https://www.standardwebhooks.com (version 1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from sidecar.kinds import SIGNING_PREFIX


def headers_of(id: str, body: bytes, secrets: Sequence[str], now_seconds: int) -> dict[str, str]:
    """Return the headers that name and sign a delivery; every secret signs it."""
    signed = f"{id}.{now_seconds}.".encode() + body
    return {
        "webhook-id": id,
        "webhook-timestamp": str(now_seconds),
        "webhook-signature": " ".join(_signature(signed, secret) for secret in secrets),
    }


def _signature(signed: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(SIGNING_PREFIX), validate=True)
    mac = hmac.new(key, signed, hashlib.sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"
