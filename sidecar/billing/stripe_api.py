"""Calls to the Stripe API: the real client, plain JSON objects, and two kinds of failure.

One call is one try: whoever asks decides what a failure means, and when to ask again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import stripe

from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.settings import Settings

API_VERSION: Final = "2026-10-28.endive"
"""The version of Stripe's API whose shapes are read here; the webhook endpoint has the same."""

TIMEOUT_SECONDS: Final = 10.0
_PAGE: Final = 100

Object = dict[str, Any]

# They say that a request with the same key or on the same object runs just now.
_BUSY_CODES: Final = frozenset({"lock_timeout", "idempotency_key_in_use", "rate_limit"})


class StripeApi:
    """One Stripe account. Threads may share it."""

    def __init__(self, secret_key: str, base: str, *, timeout_s: float = TIMEOUT_SECONDS) -> None:
        self._client = stripe.StripeClient(
            secret_key,
            stripe_version=API_VERSION,
            base_addresses={"api": base},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=timeout_s),
        )

    def get(self, path: str, **parameters: Any) -> Object:
        """Return the object at `path`, such as `/v1/charges/ch_1`.

        Raises `StripeAway`, and `StripeRefused` (status 404 when there is none).
        """
        return self._ask("get", path, parameters)

    def post(self, path: str, parameters: Mapping[str, Any], *, key: str) -> Object:
        """Do something once: `key` is the idempotency key, kept by Stripe for about 24 hours.

        Raises `StripeAway`: what became of it is unknown, the same again finds out; and
        `StripeRefused`.
        """
        return self._ask("post", path, {**parameters, "idempotency_key": key})

    def every(self, path: str, **parameters: Any) -> Iterator[Object]:
        """Yield the objects of a list, page by page, in Stripe's order: newest first.

        Raises as `get`, in the middle of the list too.
        """
        after: Object = {}
        while True:
            page = self.get(path, limit=_PAGE, **parameters, **after)
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    def _ask(self, method: str, path: str, parameters: Mapping[str, Any]) -> Object:
        try:
            answer = self._client.raw_request(method, path, **parameters)
        except stripe.StripeError as error:
            raise _translated(error) from error
        value: Any = json.loads(answer.body)
        if not isinstance(value, dict):
            raise StripeAway(f"Stripe answered {method} {path} with no object.")
        return value


def has_known_shape(version: str | None) -> bool:
    """Tell whether objects of an API version look as they are read here: only names change that."""
    return (version or "").partition(".")[2] == API_VERSION.partition(".")[2]


def api_of(settings: Settings) -> StripeApi | None:
    """Return the Stripe account of the settings; None without a key."""
    if not settings.stripe_secret_key:
        return None
    return StripeApi(settings.stripe_secret_key, settings.stripe_api_base)


def _translated(error: stripe.StripeError) -> StripeAway | StripeRefused:
    status, details = error.http_status, _details(error)
    is_busy = status in (409, 429) or details["code"] in _BUSY_CODES
    if status is None or status >= 500 or is_busy:
        return StripeAway(f"Stripe gave no answer: {_sentence(error)}", is_busy=is_busy)
    payment = details.get("payment_intent")
    return StripeRefused(
        _sentence(error),
        status=status,
        kind=details["type"],
        code=details["code"],
        decline_code=details.get("decline_code"),
        advice_code=details.get("advice_code"),
        payment_intent=payment.get("id") if isinstance(payment, dict) else None,
    )


def _details(error: stripe.StripeError) -> Object:
    # `error.decline_code` is always None: only the body has it.
    body: Any = error.json_body
    details = body.get("error") if isinstance(body, dict) else None
    return {"type": None, "code": None} | (details if isinstance(details, dict) else {})


def _sentence(error: stripe.StripeError) -> str:
    # In ASCII: it goes into columns that refuse NUL.
    return ascii(error.user_message or str(error) or type(error).__name__)[1:-1][:300]
