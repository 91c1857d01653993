"""The audit's questions about money: what Stripe's facts say against the ledger's own transfers.

Each returns what is wrong: no row is well.
"""

from __future__ import annotations

from typing import Final

MINUTE_AGO: Final = "extract(epoch FROM clock_timestamp()) * 1000 - 60000"

# What a payment gave, all that was given back of it included, less all that was clawed back. What
# is given back of that is a grant again, so there are never less grants than the first.
TOP_UPS_ARE_PAYMENTS: Final = f"""
SELECT p.payment_intent, p.account, p.is_paid, p.credits, p.granted, p.clawed_back,
    coalesce(g.sum, 0) AS given, coalesce(t.sum, 0) AS taken
FROM stripe_payments p
LEFT JOIN (
    SELECT g.account, g.reference, sum(t.amount) AS sum
    FROM grants g JOIN transfers t ON t.id = g.transfer WHERE g.category = 'paid'
    GROUP BY g.account, g.reference) AS g
    ON g.account = p.account AND g.reference = p.payment_intent
LEFT JOIN (
    SELECT account, reference, sum(amount) AS sum FROM transfers WHERE kind = 'clawback'
    GROUP BY account, reference) AS t
    ON t.account = p.account AND t.reference = p.payment_intent
WHERE p.granted - p.clawed_back <> coalesce(g.sum, 0) - coalesce(t.sum, 0)
    OR coalesce(g.sum, 0) < p.granted OR (p.granted > 0 AND NOT p.is_paid)
    OR (p.is_paid AND p.granted <> p.credits AND p.updated_ms < {MINUTE_AGO})
UNION ALL
SELECT t.reference, t.account, NULL, NULL, NULL, NULL, NULL, t.amount
FROM transfers t
WHERE t.kind = 'clawback' AND NOT EXISTS (
    SELECT FROM stripe_payments p
    WHERE p.payment_intent = t.reference AND p.account = t.account)
"""

# A grant beyond the last posting is found too.
ALLOWANCES_ARE_GRANTS: Final = """
SELECT a.subscription_item, a.starts_ms, a.account, a.granted, coalesce(g.sum, 0) AS given
FROM allowances a
LEFT JOIN LATERAL (
    SELECT sum(g.amount) AS sum
    FROM generate_series(1, a.postings + 1) AS n
    JOIN grants g ON g.account = a.account AND g.category = 'allowance'
        AND g.id = a.subscription_item || ':' || a.starts_ms || ':' || n) AS g ON true
WHERE a.granted <> coalesce(g.sum, 0)
"""

MONEY_LINES: Final = (
    ("top_ups_are_payments", "I5", TOP_UPS_ARE_PAYMENTS),
    ("allowances_are_grants", "I5", ALLOWANCES_ARE_GRANTS),
)
"""Name, invariant and query of each line."""
