"""The signature of a webhook delivery: made with one of our secrets, and fresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stripe import SignatureVerificationError, WebhookSignature

from sidecar.billing.errors import DeliveryRefused

TOLERANCE_SECONDS: Final = 300


def verify(payload: bytes, header: str | None, secrets: Sequence[str], now_seconds: float) -> None:
    """Check that one of `secrets` signed exactly these bytes within the last 300 seconds.

    The client library lets any instant in the future pass: that is checked here, and the past too,
    by the caller's clock. Raises `DeliveryRefused` (`bad_signature`, `stale`, `unparsable`).
    """
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DeliveryRefused("unparsable", "The body is not UTF-8.") from error
    if not any(_is_signed(payload, header, secret) for secret in secrets):
        raise DeliveryRefused("bad_signature", "No configured secret made this signature.")
    if abs(now_seconds - _signed_at_seconds(header or "")) > TOLERANCE_SECONDS:
        raise DeliveryRefused(
            "stale", f"The signature is not of the last {TOLERANCE_SECONDS} seconds."
        )


def _is_signed(payload: bytes, header: str | None, secret: str) -> bool:
    try:
        # Without a tolerance: that one would count by another clock, and the past only.
        WebhookSignature.verify_header(payload, header, secret)
    except (SignatureVerificationError, UnicodeEncodeError, TypeError):
        return False
    return True


def _signed_at_seconds(header: str) -> int:
    # The same reading as the client library's: the first `t=` counts. It has verified the header.
    items = (item.split("=", 2) for item in header.split(","))
    return next(int(item[1]) for item in items if item[0] == "t")
