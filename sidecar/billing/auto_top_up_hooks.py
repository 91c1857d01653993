"""What becomes of auto top-ups when Stripe tells of payments, cards and claims.

Each is called in the transaction of the event that tells, and does nothing for an account without
auto top-up.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, select, text

from persistence.tables import accounts
from sidecar.billing import auto_top_up_rows as rows
from sidecar.billing import declines


def on_paid(
    c: Connection, account: str, payment_intent: str, order_id: str | None, now_ms: int
) -> None:
    """A payment's credits were granted: its attempt succeeded, or somebody bought by hand.

    Whatever the attempt was thought to be before: the money is here. The caller may hold the
    account's row.
    """
    setting = rows.lock_setting(c, account)
    ours = None if order_id is None else rows.lock_attempt_of(c, order_id)
    if ours is not None:
        rows.succeed(c, ours, payment_intent, now_ms)
    elif setting is not None:
        _resume(c, setting, "manual_purchase", now_ms)


def on_failed(c: Connection, subject: dict[str, Any], now_ms: int) -> None:
    """A payment came to nothing: `subject` is its PaymentIntent, or its Checkout session."""
    metadata = subject.get("metadata")
    order_id = metadata.get("order_id") if isinstance(metadata, dict) else None
    account = rows.account_of_order(c, order_id) if isinstance(order_id, str) else None
    if account is None:
        return
    rows.lock_setting(c, account)
    ours = rows.lock_attempt_of(c, str(order_id))
    if ours is None or not ours.is_in_flight:
        return
    if subject.get("status") == "canceled":
        rows.fail(c, ours, "the payment was canceled", now_ms, status="canceled")
        return
    payment = subject.get("id")
    known = payment if isinstance(payment, str) else None
    rows.decline(c, ours, declines.of_payment(subject), now_ms, payment_intent=known)


def pause(c: Connection, account: str, reason: str, now_ms: int) -> None:
    """Stop the auto top-up of an account: `dispute` or `fraud_warning`."""
    setting = rows.lock_setting(c, account)
    if setting is not None:
        rows.pause(c, setting, reason, now_ms)


def on_new_card(c: Connection, customer: str, now_ms: int) -> None:
    """A customer has a new card, another default one, or the bank renewed one."""
    query = select(accounts.c.account).where(accounts.c.stripe_customer == customer)
    for account in c.scalars(query.order_by(accounts.c.account)).all():
        setting = rows.lock_setting(c, account)
        if setting is not None:
            _resume(c, setting, "new_card", now_ms)


def on_saved(c: Connection, account: str, now_ms: int) -> None:
    """The settings were saved: a person looked at them, so they count from now."""
    setting = rows.lock_setting(c, account)
    if setting is not None:
        rows.resume(c, setting, "saved_settings", now_ms)


def open_claim(c: Connection, setting: rows.Setting) -> str | None:
    """Return which doubt of a bank about the account's payments stands, or None.

    A warning has no end of its own: it stands until a person lets the auto top-up go on.
    """
    values = {
        "account": setting.account,
        "over": ["warning_closed", "won", "lost", "prevented"],
        "since_ms": max(setting.resumed_ms, setting.created_ms),
    }
    found: str | None = c.scalar(_OPEN_CLAIM, values)
    return found


def _resume(c: Connection, setting: rows.Setting, because: str, now_ms: int) -> None:
    if open_claim(c, setting) is None:
        rows.resume(c, setting, because, now_ms)


_OPEN_CLAIM: Final = text(
    """
    SELECT 'dispute' FROM stripe_payments p
    JOIN stripe_disputes d
        ON d.payment_intent = p.payment_intent OR d.charge = p.charge
    WHERE p.account = :account AND d.status <> ALL(:over)
    UNION ALL
    SELECT 'fraud_warning' FROM stripe_payments p
    JOIN stripe_fraud_warnings w
        ON w.payment_intent = p.payment_intent OR w.charge = p.charge
    WHERE p.account = :account AND w.is_actionable AND w.created_ms > :since_ms
    LIMIT 1
    """
)
