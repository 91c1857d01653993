"""What reopening asks and tells the ledger: each statement serves many accounts at once."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def _array(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=ARRAY(kind))


_ACCOUNTS: Final = _array("accounts", sa.Text)
_GENS: Final = _array("gens", sa.Integer)

# Superseded, and every journal of its shard is in.
_IS_DUE: Final = """
    g.state <> 'closed' AND g.epoch < s.epoch AND s.state = 'open' AND s.is_fenced
"""

LOCK_ACCOUNTS: Final = sa.text(
    """
    SELECT a.account FROM accounts a WHERE a.account = ANY(:accounts)
    ORDER BY a.account FOR NO KEY UPDATE
    """
).bindparams(_ACCOUNTS)

LOCK_FREE_ACCOUNTS: Final = sa.text(f"{LOCK_ACCOUNTS.text} SKIP LOCKED").bindparams(_ACCOUNTS)

LOCK_SUPERSEDED: Final = sa.text(
    f"""
    SELECT g.account FROM accounts a
    JOIN generations g ON g.account = a.account AND g.gen = a.generation
    JOIN shards s ON s.shard = g.shard
    WHERE a.account = ANY(:accounts) AND {_IS_DUE}
    ORDER BY g.account FOR NO KEY UPDATE OF g
    """
).bindparams(_ACCOUNTS)

LOCK_BALANCES: Final = sa.text(
    """
    SELECT FROM ledger_accounts l
    WHERE l.no IN (
        SELECT unnest(ARRAY[g.available_no, g.lent_no]) FROM accounts a
        JOIN generations g ON g.account = a.account AND g.gen = a.generation
        WHERE a.account = ANY(:accounts))
    ORDER BY l.no FOR NO KEY UPDATE
    """
).bindparams(_ACCOUNTS)

SUPERSEDED: Final = sa.text(
    """
    SELECT a.account, a.status, a.status_reason, a.overdraft_limit, a.outage_allowance,
        greatest(a.low_balance_threshold, a.top_up_threshold, 0) AS mark, g.gen, s.epoch,
        g.available_no, g.lent_no, l.balance AS lent_balance,
        v.balance AS available_balance
    FROM accounts a
    JOIN generations g ON g.account = a.account AND g.gen = a.generation
    JOIN shards s ON s.shard = g.shard
    JOIN ledger_accounts l ON l.no = g.lent_no
    JOIN ledger_accounts v ON v.no = g.available_no
    WHERE a.account = ANY(:accounts)
    ORDER BY a.account
    """
).bindparams(_ACCOUNTS)

REMAINING: Final = sa.text(
    """
    SELECT account, grant_no, id, priority, expires_at_ms, category, rolled_group, rolled_keep,
        amount - used - expired - returned AS remaining
    FROM grants WHERE account = ANY(:accounts) AND amount > used + expired + returned
    ORDER BY account, grant_no
    """
).bindparams(_ACCOUNTS)

OPEN_LENT: Final = sa.text(
    """
    INSERT INTO ledger_accounts (name, kind, account, generation)
    SELECT v.name, 'lent', v.account, v.gen + 1
    FROM unnest(:names, :accounts, :gens) AS v (name, account, gen) ORDER BY v.account
    RETURNING account, no
    """
).bindparams(_array("names", sa.Text), _ACCOUNTS, _GENS)

CLOSE: Final = sa.text(
    """
    UPDATE generations g SET state = 'closed', residue = g.residue + v.residue, closed_ms = :now
    FROM unnest(:accounts, :gens, :residues) AS v (account, gen, residue)
    WHERE g.account = v.account AND g.gen = v.gen
    """
).bindparams(_ACCOUNTS, _GENS, _array("residues", sa.BigInteger))

# What the old generation never got: the new one begins with what it said.
VOID: Final = sa.text(
    """
    UPDATE refills r SET voided_ms = :now
    FROM unnest(:accounts, :gens) AS v (account, gen)
    WHERE r.account = v.account AND r.gen = v.gen AND r.applied_ms IS NULL
    """
).bindparams(_ACCOUNTS, _GENS)

OPEN: Final = sa.text(
    """
    INSERT INTO generations (account, gen, shard, epoch, refill_no, lent, available_no, lent_no,
        spent_no, expired_no, created_ms)
    SELECT g.account, g.gen + 1, g.shard, v.epoch, v.refills, v.lent, g.available_no, v.lent_no,
        g.spent_no, g.expired_no, :now
    FROM unnest(:accounts, :gens, :epochs, :refills, :lent, :lent_nos)
        AS v (account, gen, epoch, refills, lent, lent_no)
    JOIN generations g ON g.account = v.account AND g.gen = v.gen
    """
).bindparams(
    _ACCOUNTS,
    _GENS,
    _array("epochs", sa.Integer),
    *(_array(name, sa.BigInteger) for name in ("refills", "lent", "lent_nos")),
)

TURN: Final = sa.text(
    """
    UPDATE accounts a SET generation = v.gen + 1 FROM unnest(:accounts, :gens) AS v (account, gen)
    WHERE a.account = v.account
    """
).bindparams(_ACCOUNTS, _GENS)

REFILLS: Final = sa.text(
    """
    INSERT INTO refills (account, gen, refill_no, kind, amount, payload, created_ms)
    SELECT v.account, v.gen, v.refill_no, v.kind, v.amount, CAST(v.payload AS jsonb), :now
    FROM unnest(:accounts, :gens, :numbers, :kinds, :amounts, :payloads)
        AS v (account, gen, refill_no, kind, amount, payload)
    """
).bindparams(
    _ACCOUNTS,
    _GENS,
    _array("kinds", sa.Text),
    _array("payloads", sa.Text),
    *(_array(name, sa.BigInteger) for name in ("numbers", "amounts")),
)

NOTIFY: Final = sa.text("SELECT pg_notify(:channel, '')")

COUNT_SUPERSEDED: Final = sa.text(
    """
    SELECT count(*) FROM shards s
    JOIN generations g ON g.shard = s.shard AND g.state <> 'closed' AND g.epoch < s.epoch
    """
)

NEXT: Final = sa.text(
    f"""
    SELECT g.account FROM shards s JOIN generations g ON g.shard = s.shard
    WHERE {_IS_DUE} LIMIT :limit
    """
)
