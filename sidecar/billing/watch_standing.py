"""Where accounts stand: what they have available in Redis, with what is on its way to it.

A grant is in the ledger a moment before Redis has it. It counts as there at once: nobody is warned,
or charged again, because the news of their payment travels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.errors import RedisChanged
from persistence.pipelines import call_reachable
from persistence.places import Place, places_of
from sidecar.nodes import RedisNodes

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account has available, in microcredits.

    Not `is_exact`: Redis did not say, and it is what the ledger knows, which is rather too much:
    usage of this moment and open holds are not taken off. `granted_total` is as it was before.
    """

    account: str
    available: int
    is_exact: bool
    granted_total: int


class Standings:
    """Reads accounts in Redis and in the ledger; nothing is locked."""

    def __init__(self, engine: Engine, nodes: RedisNodes) -> None:
        self._engine = engine
        self._nodes = nodes

    def of(self, accounts: Sequence[str]) -> dict[str, Standing]:
        """Return where accounts stand; those that do not exist are left out."""
        names = list(accounts)
        with self._engine.connect() as c:
            totals = {
                row.account: row.granted_total for row in c.execute(_TOTALS, {"names": names})
            }
            places = places_of(c, names)
        said = self._said(places)
        # After Redis: a grant that comes in between is on its way, and counts.
        values = {
            "names": list(said),
            "gens": [gen for _, gen, _ in said.values()],
            "refills": [refill_no for _, _, refill_no in said.values()],
        }
        with self._engine.connect() as c:
            coming = {row.account: int(row.coming) for row in c.execute(_COMING, values)}
            ledger = {row.account: int(row.ledger) for row in c.execute(_LEDGER, {"names": names})}
        exact = {name: said[name][0] + coming[name] for name in coming}
        # An account that nobody has used yet is not in Redis: the ledger knows all of it.
        idle = {place.account for place in places if place.is_present and not place.has_refills}
        return {
            name: Standing(
                name, exact.get(name, ledger[name]), name in exact or name in idle, totals[name]
            )
            for name in totals
            if name in ledger
        }

    def _said(self, places: Sequence[Place]) -> dict[str, tuple[int, int, int]]:
        """Return what Redis says of accounts: available, generation, last refill."""
        present = [place for place in places if place.is_present]
        if not present:
            return {}
        try:
            calls = [place.call("balance", 0) for place in present]
            replies: list[Any] = call_reachable(self._nodes, calls)
        except (RedisError, RedisChanged, OSError) as error:
            log.warning("Redis does not say where accounts stand", extra={"error": str(error)})
            return {}
        return {
            place.account: (int(reply[2]), int(reply[5]), int(reply[7]))
            for place, reply in zip(present, replies, strict=True)
            if isinstance(reply, list) and reply[0] == b"ok"
        }


_NAMES: Final = sa.bindparam("names", type_=ARRAY(sa.Text))

_TOTALS: Final = sa.text(
    "SELECT account, granted_total FROM accounts WHERE account = ANY(:names)"
).bindparams(_NAMES)

_LEDGER: Final = sa.text(
    """
    SELECT a.account, (
        SELECT coalesce(sum(l.balance), 0) FROM ledger_accounts l
        WHERE l.account = a.account AND l.kind IN ('available', 'lent')) AS ledger
    FROM accounts a WHERE a.account = ANY(:names)
    """
).bindparams(_NAMES)

# Only of the present generation: another one's answer says nothing of now.
_COMING: Final = sa.text(
    """
    SELECT v.account, (
        SELECT coalesce(sum(r.amount + CASE r.kind
            WHEN 'restore' THEN (r.payload ->> 'amount')::bigint ELSE 0 END), 0)
        FROM refills r
        WHERE r.account = v.account AND r.gen = v.gen AND r.refill_no > v.refill_no) AS coming
    FROM unnest(:names, :gens, :refills) AS v (account, gen, refill_no)
    JOIN accounts a ON a.account = v.account AND a.generation = v.gen
    """
).bindparams(
    _NAMES,
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
    sa.bindparam("refills", type_=ARRAY(sa.BigInteger)),
)
