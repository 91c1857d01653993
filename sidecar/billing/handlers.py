"""Which handler applies which type of Stripe event. All other types are stored and ignored."""

from __future__ import annotations

from typing import Final

from sidecar.billing import (
    cards,
    charges,
    disputes,
    invoices,
    payments,
    refunds,
    subscriptions,
)
from sidecar.billing.applying import Handler

HANDLERS: Final[dict[str, Handler]] = {
    **payments.HANDLERS,
    **refunds.HANDLERS,
    **disputes.HANDLERS,
    **charges.HANDLERS,
    **cards.HANDLERS,
    **subscriptions.HANDLERS,
    **invoices.HANDLERS,
}
