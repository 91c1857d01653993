"""The questions that the audit asks of Postgres. Each returns what is wrong: no row is well."""

from __future__ import annotations

from typing import Final

from persistence.audit_money_sql import MINUTE_AGO, MONEY_LINES
from persistence.chain import RECOMPUTE

_ALLOCATED: Final = """
    SELECT e.account, e.generation, e.operation, e.allocations[2 * i - 1] AS grant_no,
        e.allocations[2 * i] AS amount
    FROM usage_events e, generate_series(1, cardinality(e.allocations) / 2) AS i
"""

LEDGER_SUMS_TO_ZERO: Final = (
    "SELECT sum(balance) AS sum FROM ledger_accounts HAVING sum(balance) <> 0"
)

BALANCES_ARE_TRANSFERS: Final = """
SELECT l.name, l.balance, coalesce(t.sum, 0) AS transfers
FROM ledger_accounts l
LEFT JOIN (
    SELECT no, sum(amount) AS sum FROM (
        SELECT credit_account AS no, amount FROM transfers
        UNION ALL SELECT debit_account, -amount FROM transfers) AS m
    GROUP BY no) AS t ON t.no = l.no
WHERE l.balance <> coalesce(t.sum, 0)
"""

GRANTS_HAVE_SOURCES: Final = """
SELECT g.account, g.id, 'grant without its transfer' AS problem
FROM grants g
LEFT JOIN transfers t ON t.id = g.transfer
LEFT JOIN ledger_accounts d ON d.no = t.debit_account
WHERE t.id IS NULL OR t.amount <> g.amount OR t.account IS DISTINCT FROM g.account
    OR t.reference IS NULL OR t.kind NOT IN ('grant', 'adjustment')
    OR d.name <> 'source:' || g.category
UNION ALL
SELECT t.account, t.id::text, 'transfer of no grant or adjustment'
FROM transfers t
WHERE t.kind IN ('grant', 'adjustment')
    AND NOT EXISTS (SELECT FROM grants g WHERE g.transfer = t.id)
    AND NOT EXISTS (SELECT FROM adjustments a WHERE a.transfer = t.id)
UNION ALL
SELECT t.account, t.id::text, 'claw-back from or to another place'
FROM transfers t
JOIN ledger_accounts d ON d.no = t.debit_account
JOIN ledger_accounts c ON c.no = t.credit_account
WHERE t.kind = 'clawback' AND (c.name <> 'source:paid' OR t.account IS NULL
    OR d.name <> 'available:' || t.account)
"""

GRANTED_TOTALS: Final = """
SELECT a.account, a.granted_total, coalesce(g.sum, 0) AS grants
FROM accounts a
LEFT JOIN (SELECT account, sum(amount) AS sum FROM grants GROUP BY account) AS g
    ON g.account = a.account
WHERE a.granted_total <> coalesce(g.sum, 0)
"""

CONSERVATION: Final = """
SELECT a.account, a.granted_total, coalesce(t.sum, 0) AS taken, coalesce(b.sum, 0) AS clawed_back,
    coalesce(l.sum, 0) AS in_ledger, coalesce(g.suspended, 0) AS suspended
FROM accounts a
LEFT JOIN (SELECT account, sum(balance) AS sum FROM ledger_accounts GROUP BY account) AS l
    ON l.account = a.account
LEFT JOIN (SELECT account, -sum(amount) AS sum FROM adjustments WHERE amount < 0 GROUP BY account)
    AS t ON t.account = a.account
LEFT JOIN (SELECT account, sum(amount) AS sum FROM transfers WHERE kind = 'clawback'
    GROUP BY account) AS b ON b.account = a.account
LEFT JOIN (SELECT account, sum(suspended) AS suspended FROM generations GROUP BY account) AS g
    ON g.account = a.account
WHERE a.granted_total - coalesce(t.sum, 0) - coalesce(b.sum, 0)
    <> coalesce(l.sum, 0) + coalesce(g.suspended, 0)
"""

GENERATIONS_ARE_USAGE: Final = f"""
SELECT g.account, g.gen, g.spent, g.expired, g.returned, g.overage, coalesce(e.spent, 0) AS usage
FROM generations g
LEFT JOIN (
    SELECT account, generation,
        sum(amount) FILTER (WHERE operation IN ('settle', 'debit', 'refund')) AS spent,
        sum(amount) FILTER (WHERE operation = 'expire') AS expired,
        sum(amount) FILTER (WHERE operation = 'take') AS returned
    FROM usage_events GROUP BY account, generation) AS e
    ON e.account = g.account AND e.generation = g.gen
LEFT JOIN (
    SELECT account, generation, sum(amount) AS overage
    FROM ({_ALLOCATED}) AS a WHERE grant_no = 0 GROUP BY account, generation) AS o
    ON o.account = g.account AND o.generation = g.gen
LEFT JOIN (
    SELECT account, generation, sum(amount) AS dropped
    FROM duplicate_events GROUP BY account, generation) AS d
    ON d.account = g.account AND d.generation = g.gen
LEFT JOIN (
    SELECT account, generation, sum(amount) AS suspended
    FROM dead_letters WHERE generation IS NOT NULL GROUP BY account, generation) AS s
    ON s.account = g.account AND s.generation = g.gen
WHERE (g.spent, g.expired, g.returned, g.overage, g.dropped, g.suspended) <> (
    coalesce(e.spent, 0), coalesce(e.expired, 0), coalesce(e.returned, 0), coalesce(o.overage, 0),
    coalesce(d.dropped, 0), coalesce(s.suspended, 0))
"""

GRANTS_ARE_USAGE: Final = f"""
SELECT g.account, g.id, g.used, g.expired, g.returned, coalesce(a.used, 0) AS usage
FROM grants g
LEFT JOIN (
    SELECT grant_no,
        sum(amount) FILTER (WHERE operation NOT IN ('expire', 'take')) AS used,
        sum(amount) FILTER (WHERE operation = 'expire') AS expired,
        sum(amount) FILTER (WHERE operation = 'take') AS returned
    FROM ({_ALLOCATED}) AS x GROUP BY grant_no) AS a ON a.grant_no = g.grant_no
WHERE (g.used, g.expired, g.returned) <> (
    coalesce(a.used, 0), coalesce(a.expired, 0), coalesce(a.returned, 0))
"""

LENT_IS_ACCOUNTED: Final = """
SELECT g.account, g.gen, 'refills' AS of, g.lent AS generation, coalesce(r.lent, 0) AS found
FROM generations g
LEFT JOIN (
    SELECT account, gen, sum(amount) AS lent,
        sum((payload ->> 'amount')::bigint) FILTER (WHERE kind = 'restore') AS restored
    FROM refills GROUP BY account, gen) AS r ON r.account = g.account AND r.gen = g.gen
WHERE g.lent <> coalesce(r.lent, 0) OR g.restored <> coalesce(r.restored, 0)
UNION ALL
SELECT g.account, g.gen, l.name,
    g.lent - g.spent - g.expired - g.returned - g.suspended - g.residue, l.balance
FROM generations g JOIN ledger_accounts l ON l.no = g.lent_no
WHERE l.balance <> g.lent - g.spent - g.expired - g.returned - g.suspended - g.residue
UNION ALL
SELECT l.account, NULL, l.name, sum(CASE l.kind WHEN 'spent' THEN g.spent ELSE g.expired END),
    l.balance
FROM ledger_accounts l JOIN generations g ON g.account = l.account
WHERE l.kind IN ('spent', 'expired')
GROUP BY l.no
HAVING l.balance <> sum(CASE l.kind WHEN 'spent' THEN g.spent ELSE g.expired END)
"""

NOT_OVERSPENT: Final = """
SELECT account, gen::text AS of, spent + expired + returned AS gone, lent + overage AS had
FROM generations WHERE spent + expired + returned > lent + overage
UNION ALL
SELECT account, id, used + expired + returned, amount
FROM grants WHERE used + expired + returned > amount
"""

CLOSED_ARE_EMPTY: Final = """
SELECT g.account, g.gen, l.balance
FROM generations g JOIN ledger_accounts l ON l.no = g.lent_no
WHERE g.state = 'closed' AND l.balance <> 0
"""

# A lost generation has gaps where nobody acknowledged anything, and two events of one number where
# its Redis had gone back in time; a present one has neither.
SEQUENCE_HAS_NO_GAPS: Final = """
SELECT g.account, g.gen, g.seq, coalesce(e.events, 0) AS events, e.last
FROM generations g
JOIN shards s ON s.shard = g.shard
LEFT JOIN (
    SELECT account, generation, count(*) AS events, count(DISTINCT seq) AS numbers, max(seq) AS last
    FROM (
        SELECT account, generation, seq FROM usage_events
        UNION ALL SELECT account, generation, seq FROM duplicate_events
        UNION ALL SELECT account, generation, seq FROM dead_letters WHERE reason = 'refused'
    ) AS a GROUP BY account, generation) AS e ON e.account = g.account AND e.generation = g.gen
WHERE g.seq <> coalesce(e.last, 0)
    OR (g.state <> 'closed' AND g.epoch = s.epoch AND s.state <> 'suspect'
        AND (g.seq, g.seq) <> (coalesce(e.events, 0), coalesce(e.numbers, 0)))
"""

REFILLS_IN_ORDER: Final = """
SELECT g.account, g.gen, g.refill_no, g.applied_refill_no, coalesce(r.refills, 0) AS refills
FROM generations g
LEFT JOIN (
    SELECT account, gen, count(*) AS refills, max(refill_no) AS last,
        max(refill_no) FILTER (WHERE applied_ms IS NOT NULL) AS applied,
        count(*) FILTER (WHERE applied_ms IS NOT NULL) AS applied_count
    FROM refills GROUP BY account, gen) AS r ON r.account = g.account AND r.gen = g.gen
WHERE g.refill_no <> coalesce(r.refills, 0) OR g.refill_no <> coalesce(r.last, 0)
    OR g.applied_refill_no <> coalesce(r.applied, 0)
    OR g.applied_refill_no <> coalesce(r.applied_count, 0)
"""

# A refill that Redis refuses keeps all later ones of its account waiting, top-ups too.
REFILLS_ARRIVE: Final = """
SELECT r.account, r.gen, min(r.refill_no) AS waiting_since, count(*) AS refills
FROM refills r
JOIN generations g ON g.account = r.account AND g.gen = r.gen AND g.state = 'open'
JOIN shards s ON s.shard = g.shard AND s.epoch = g.epoch
WHERE r.applied_ms IS NULL AND r.voided_ms IS NULL
    AND r.created_ms < extract(epoch FROM clock_timestamp()) * 1000 - 60000
GROUP BY r.account, r.gen
"""

# A caller may use an id again once it is forgotten, which takes a day; before, there is one end.
HOLDS_END_ONCE: Final = """
SELECT account, id, count(*) AS ends
FROM usage_events WHERE operation = 'settle' AND final
GROUP BY account, generation, id
HAVING count(*) > 1 AND max(at_ms) - min(at_ms) < 86400000
"""

REFUNDS_WITHIN_CHARGES: Final = """
SELECT r.account, r.of AS id, r.refunded, coalesce(c.charged, 0) AS charged
FROM (
    SELECT account, of, -sum(amount) AS refunded
    FROM usage_events WHERE operation = 'refund' AND of IS NOT NULL GROUP BY account, of) AS r
LEFT JOIN LATERAL (
    SELECT sum(e.amount) AS charged FROM usage_events e
    WHERE e.account = r.account AND e.id = r.of AND e.operation IN ('settle', 'debit')) AS c ON true
WHERE r.refunded > coalesce(c.charged, 0)
"""

HASH_CHAIN: Final = RECOMPUTE

SUSPENSE_IS_EMPTY: Final = """
SELECT name, balance FROM ledger_accounts WHERE kind = 'suspense' AND balance <> 0
"""

NO_DEAD_LETTERS: Final = """
SELECT id, shard, reason, error, account, seq, amount FROM dead_letters WHERE resolved_ms IS NULL
"""

NO_ACCOUNT_CLOSES_TOO_LONG: Final = f"""
SELECT g.account, g.gen, min(r.noticed_ms) AS since_ms
FROM shards s
JOIN generations g ON g.shard = s.shard AND g.state <> 'closed' AND g.epoch < s.epoch
JOIN recoveries r ON r.shard = g.shard AND r.epoch > g.epoch
GROUP BY g.account, g.gen HAVING min(r.noticed_ms) < {MINUTE_AGO}
"""

NO_SHARD_IS_AWAY_TOO_LONG: Final = f"""
SELECT s.shard, s.epoch, s.state, coalesce(s.cause, r.cause) AS cause, r.noticed_ms
FROM shards s LEFT JOIN recoveries r ON r.shard = s.shard AND r.epoch = s.epoch
WHERE s.epoch > 0 AND (s.state = 'suspect' OR (
    (s.state <> 'open' OR NOT s.is_fenced) AND coalesce(r.noticed_ms, 0) < {MINUTE_AGO}))
"""

JOURNALS_ARE_CONFIRMED: Final = f"""
SELECT c.name AS sidecar, c.id, count(*) AS shards, min(d.created_ms) AS since_ms
FROM drains d
JOIN shards s ON s.shard = d.shard AND s.epoch = d.epoch
JOIN sidecars c ON c.id = d.sidecar
WHERE d.handed_in_ms IS NULL AND d.created_ms < {MINUTE_AGO}
GROUP BY c.id
"""

# Nothing is lent again before every journal is in: that alone keeps it from being spent twice.
NOTHING_IS_REOPENED_EARLY: Final = """
SELECT g.account, g.gen, g.epoch, 'reopened before its shard was drained' AS problem
FROM generations g JOIN recoveries r ON r.shard = g.shard AND r.epoch = g.epoch
WHERE g.gen > 1 AND r.drained_ms IS NULL
UNION ALL
SELECT c.name, s.shard, s.epoch, 'open before the journal of this sidecar was in'
FROM shards s
JOIN drains d ON d.shard = s.shard AND d.epoch = s.epoch AND d.handed_in_ms IS NULL
JOIN sidecars c ON c.id = d.sidecar
WHERE s.state = 'open'
"""

NO_SIDECAR_IS_SILENT: Final = f"""
SELECT name, id, seen_ms FROM sidecars WHERE state = 'alive' AND seen_ms < {MINUTE_AGO}
"""

LINES: Final = (
    ("ledger_sums_to_zero", "I6", LEDGER_SUMS_TO_ZERO),
    ("balances_are_transfers", "I6", BALANCES_ARE_TRANSFERS),
    ("batches_hash_chain", "I6", HASH_CHAIN),
    ("conservation", "I1", CONSERVATION),
    ("granted_totals", "I1", GRANTED_TOTALS),
    ("generations_are_usage", "I1", GENERATIONS_ARE_USAGE),
    ("grants_are_usage", "I1", GRANTS_ARE_USAGE),
    ("lent_is_accounted", "I1", LENT_IS_ACCOUNTED),
    ("closed_generations_are_empty", "I1", CLOSED_ARE_EMPTY),
    ("not_overspent", "I2", NOT_OVERSPENT),
    ("nothing_is_reopened_early", "I2", NOTHING_IS_REOPENED_EARLY),
    ("refunds_within_charges", "I2", REFUNDS_WITHIN_CHARGES),
    ("holds_end_once", "I3", HOLDS_END_ONCE),
    ("sequence_has_no_gaps", "I4", SEQUENCE_HAS_NO_GAPS),
    ("no_dead_letters", "I4", NO_DEAD_LETTERS),
    ("suspense_is_empty", "I4", SUSPENSE_IS_EMPTY),
    ("grants_have_sources", "I5", GRANTS_HAVE_SOURCES),
    *MONEY_LINES,
    ("refills_in_order", "I6", REFILLS_IN_ORDER),
    ("refills_arrive", "I5", REFILLS_ARRIVE),
    ("journals_are_confirmed", "I4", JOURNALS_ARE_CONFIRMED),
    ("no_sidecar_is_silent", "I4", NO_SIDECAR_IS_SILENT),
    ("no_account_closes_too_long", "I6", NO_ACCOUNT_CLOSES_TOO_LONG),
    ("no_shard_is_away_too_long", "I6", NO_SHARD_IS_AWAY_TOO_LONG),
)
"""Name, invariant and query of each line, in the order of the report."""
