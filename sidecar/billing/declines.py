"""Declines: what a bank's refusal of a charge means for the next one.

The codes are those of Stripe's page "Decline codes"; which of them are hard, so that another try
needs another card, is what its page on retries of payments says. `authentication_required` needs
the person, who is not there. The advice code, if any, is the network's own word on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sidecar.billing.errors import StripeRefused

MAX_DECLINES: Final = 4
"""Declines in a row after which nothing is tried until somebody acts."""

TOO_MANY: Final = "too_many_declines"
"""Why an auto top-up is paused after so many."""

_HOUR_MS: Final = 3_600_000
_BACK_OFF_MS: Final = (_HOUR_MS, 4 * _HOUR_MS, 24 * _HOUR_MS)

_FINAL_ADVICE: Final = "do_not_try_again"

_FINAL: Final = frozenset(
    {
        # The payer has to confirm, and off-session nobody does.
        "authentication_required",
        "authentication_not_handled",
        # The card is gone, or is no card that can pay here.
        "expired_card",
        "lost_card",
        "stolen_card",
        "pickup_card",
        "restricted_card",
        "invalid_account",
        "new_account_information_available",
        "incorrect_number",
        "invalid_number",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "card_not_supported",
        "currency_not_supported",
        "transaction_not_allowed",
        "live_mode_test_card",
        "testmode_decline",
        # The payer or the bank said no to charges like this, now and later.
        "do_not_try_again",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "stop_payment_order",
        # Fraud is suspected: another try makes it worse.
        "fraudulent",
        "highest_risk_level",
        "merchant_blacklist",
        "security_violation",
    }
)


@dataclass(frozen=True, slots=True)
class Decline:
    """Why a bank did not pay: codes of Stripe's, and a sentence."""

    code: str | None
    decline_code: str | None
    advice_code: str | None
    message: str

    @property
    def reason(self) -> str:
        """The code that says most: never empty."""
        return self.decline_code or self.code or "declined"

    @property
    def final_reason(self) -> str | None:
        """Why no other try with the same card makes sense, or None when one may."""
        for code in (self.decline_code, self.code):
            if code in _FINAL:
                return code
        return _FINAL_ADVICE if self.advice_code == _FINAL_ADVICE else None


def of_refusal(error: StripeRefused) -> Decline:
    """Return the decline that a refused request (402) tells of."""
    return Decline(error.code, error.decline_code, error.advice_code, str(error)[:300])


def of_payment(payment: dict[str, Any]) -> Decline:
    """Return the decline that a PaymentIntent without success shows."""
    found = payment.get("last_payment_error")
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    if payment.get("status") == "requires_action":
        error = {"code": "authentication_required"} | error
    return Decline(
        _text(error.get("code")),
        _text(error.get("decline_code")),
        _text(error.get("advice_code")),
        _text(error.get("message")) or f"The payment is {_text(payment.get('status'))}.",
    )


def wait_ms(declines: int) -> int | None:
    """Return how long to wait after that many declines in a row; None: until somebody acts."""
    return _BACK_OFF_MS[declines - 1] if declines < MAX_DECLINES else None


def _text(value: Any) -> str | None:
    # In ASCII: it goes into columns that refuse NUL.
    return ascii(value)[1:-1][:300] if isinstance(value, str) and value else None
