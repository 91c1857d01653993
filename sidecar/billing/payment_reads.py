"""What operators see of payments: what each gave, what went back, and what Stripe kept of it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from persistence.cursors import Page, decode_cursor, page_of
from sidecar.billing.currencies import percent
from sidecar.domain import MAX_AMOUNT

THIN_PERCENT: Final = 5
"""A payment of which Stripe kept more than this leaves a thin margin."""

_FIRST: Final = [MAX_AMOUNT, MAX_AMOUNT]


def payments_of(
    c: Connection, account: str, limit: int, cursor: str | None = None
) -> Page[dict[str, Any]]:
    """Return a page of an account's payments, newest first. Raises `Refusal` (422).

    Amounts of money are in the smallest unit of the currency. `refunded` and `disputed`: what went
    back, or is on its way. `fee_percent` is None until the fee is known, in the same currency.
    """
    at_ms, tie = decode_cursor(cursor, 2) if cursor else _FIRST
    values = {"account": account, "at_ms": at_ms, "tie": tie, "limit": limit + 1}
    rows = [dict(row) for row in c.execute(_PAYMENTS, values).mappings()]
    page = page_of(rows, limit, lambda row: (row["created_ms"], row["tie"]))
    return Page([_shown(row) for row in page.rows], page.next_cursor)


def fees(c: Connection, since_ms: int, until_ms: int) -> list[dict[str, Any]]:
    """Return what was paid and what Stripe kept of it, by month (UTC) and currency, newest first.

    `payments_without_fee` counts those of which it is not known (yet), or is in another currency;
    the share is that of the others.
    """
    rows = c.execute(_FEES, {"since_ms": since_ms, "until_ms": until_ms}).mappings()
    return [
        {
            "month": row["month"],
            "currency": row["currency"],
            "payments": row["payments"],
            "paid": int(row["paid"]),
            "fee": int(row["fee"]),
            "fee_percent": percent(int(row["fee"]), int(row["paid_with_fee"])),
            "payments_without_fee": row["payments_without_fee"],
        }
        for row in rows
    ]


def thin_payments(
    c: Connection, since_ms: int, until_ms: int, above_percent: int, limit: int
) -> list[dict[str, Any]]:
    """Return the payments of which Stripe kept more than a share, newest first."""
    values = {"since_ms": since_ms, "until_ms": until_ms, "percent": above_percent}
    rows = c.execute(_THIN, values | {"limit": limit}).mappings()
    return [_shown(dict(row)) for row in rows]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    row.pop("tie", None)
    is_comparable = row["fee"] is not None and row["fee_currency"] == row["currency"]
    paid = row["paid_minor_units"] or 0
    row["fee_percent"] = percent(row["fee"], paid) if is_comparable else None
    for name in ("refunded", "disputed"):
        if name in row:
            row[name] = int(row[name])
    return row


def _sum_of(table: str, condition: str) -> str:
    # By both ids, one after the other: each has an index.
    return f"""
        (SELECT coalesce(sum(x.amount), 0) FROM {table} x WHERE {condition}
            AND (x.payment_intent = p.payment_intent OR x.charge = p.charge))
    """


_REFUNDED: Final = _sum_of(
    "stripe_refunds", "x.status IN ('pending', 'requires_action', 'succeeded')"
)
_DISPUTED: Final = _sum_of("stripe_disputes", "x.is_withdrawn")

_PAYMENTS: Final[TextClause] = text(
    f"""
    SELECT p.payment_intent, p.order_id, p.checkout_session, p.credits, p.granted, p.clawed_back,
        p.is_paid, p.paid_minor_units, p.currency, p.fee, p.fee_currency,
        {_REFUNDED} AS refunded, {_DISPUTED} AS disputed, p.created_ms,
        hashtextextended(p.payment_intent, 0) AS tie
    FROM stripe_payments p
    WHERE p.account = :account
        AND (p.created_ms, hashtextextended(p.payment_intent, 0)) < (:at_ms, :tie)
    ORDER BY p.created_ms DESC, tie DESC LIMIT :limit
    """
)

_FEES: Final = text(
    """
    SELECT to_char(to_timestamp(created_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM') AS month,
        currency, count(*) AS payments, sum(paid_minor_units) AS paid,
        coalesce(sum(fee) FILTER (WHERE is_known), 0) AS fee,
        coalesce(sum(paid_minor_units) FILTER (WHERE is_known), 0) AS paid_with_fee,
        count(*) FILTER (WHERE NOT is_known) AS payments_without_fee
    FROM (SELECT *, coalesce(fee_currency = currency AND fee IS NOT NULL, false) AS is_known
        FROM stripe_payments) p
    WHERE is_paid AND paid_minor_units IS NOT NULL
        AND created_ms >= :since_ms AND created_ms < :until_ms
    GROUP BY month, currency ORDER BY month DESC, currency
    """
)

_THIN: Final = text(
    """
    SELECT payment_intent, account, order_id, paid_minor_units, currency, fee, fee_currency,
        created_ms
    FROM stripe_payments
    WHERE is_paid AND fee_currency = currency AND fee * 100 > paid_minor_units * :percent
        AND created_ms >= :since_ms AND created_ms < :until_ms
    ORDER BY created_ms DESC, payment_intent LIMIT :limit
    """
)
