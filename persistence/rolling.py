"""Ending grants, and carrying over what is left of them: by a refill, since Redis has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.accounts import get_account
from persistence.database import now_ms
from persistence.errors import AccountUnknown
from persistence.generations import RefillKind, add_refill
from sidecar.domain import MAX_AMOUNT, burn_order

ROLL_GRANTS: Final = 1_000
"""Grants that one refill may roll: one script has to do it in one go."""

_ENDED: Final = "ended"


def roll_grants(
    connection: Connection,
    account: str,
    grant_ids: Sequence[str],
    *,
    group: str,
    keep: int,
    expires_at_ms: int,
) -> None:
    """Carry over what is left of grants, at most `keep` microcredits of them all.

    They end at `expires_at_ms`, and what is more than `keep` ends at once; those that burn
    first keep first. With a `keep` of 0 all of it ends at once, and `expires_at_ms` says nothing.
    Grants that do not exist, or of which the ledger has nothing left, are passed over. What calls
    that run now give back stays in a grant that was carried over, even if that is then more than
    `keep`; after a lost Redis the `group` is held to its `keep` again. Raises `AccountUnknown`.
    """
    assert 0 <= keep <= MAX_AMOUNT, "what is kept is an amount or nothing"
    assert expires_at_ms >= 0, "an expiry is Unix time in ms"
    if get_account(connection, account, for_update=True) is None:
        raise AccountUnknown(account)
    values = {
        "account": account,
        "ids": list(grant_ids),
        "group": group,
        "keep": keep,
        "expires_at_ms": expires_at_ms,
        "now": now_ms(),
    }
    rolled = connection.execute(_ROLL, values).all()
    assert len(rolled) <= ROLL_GRANTS, "so many grants have something left that no script ends them"
    if rolled:
        add_refill(connection, account, RefillKind.ROLL, 0, roll_payload(keep, rolled))


def end_grants(connection: Connection, account: str, grant_ids: Sequence[str]) -> None:
    """End grants now, with all that is left of them. Raises `AccountUnknown`.

    What calls that run now give back to them ends too.
    """
    roll_grants(connection, account, grant_ids, group=_ENDED, keep=0, expires_at_ms=0)


def roll_payload(keep: int, grants: Sequence[sa.Row[Any]]) -> dict[str, Any]:
    """Return the refill that rolls these rows of the table; those that burn first keep first."""
    orders = {
        burn_order(row.priority, row.expires_at_ms, row.category, row.grant_no): row.grant_no
        for row in grants
    }
    flat = [part for order in sorted(orders) for part in (orders[order], order)]
    return {"keep": keep, "grants": flat}


_ROLL: Final = sa.text(
    """
    UPDATE grants SET rolled_group = :group, rolled_keep = :keep,
        expires_at_ms = CASE WHEN CAST(:keep AS bigint) = 0
            THEN least(expires_at_ms, CAST(:now AS bigint))
            ELSE CAST(:expires_at_ms AS bigint) END
    WHERE account = :account AND id = ANY(:ids) AND amount > used + expired + returned
    RETURNING grant_no, priority, expires_at_ms, category
    """
).bindparams(sa.bindparam("ids", type_=ARRAY(sa.Text)))
